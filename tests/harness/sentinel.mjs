/** A Redis behind Sentinel: a master, its replicas and three Sentinels that watch it, each a real process on loopback. */
import { within } from "./within.mjs";
import { startRedis } from "../upstash/redis-server.mjs";

/** The master's name in the Sentinels' configuration. */
export const MASTER = "limits";

/** How many Sentinels have to agree that the master has failed. */
const QUORUM = 2;

/** Enough on a busy machine for anything that usually takes a few seconds. */
const TIMEOUT_MS = 60_000;

/**
 * @param {object} [options]
 * @param {string[]} [options.args] further arguments of each Redis
 * @param {number} [options.downAfterMs] after so much silence a Sentinel treats the master as failed
 * @param {number} [options.failoverTimeoutMs] Sentinels retry a failed failover after twice this time. After this time they
 *   reconfigure a replica that follows an address other than the master's
 * @param {(port: number) => Promise<number>} [options.link] maps the master's port to the port by which replicas reach it
 */
export async function startSentinels({ args = [], downAfterMs = 1000, failoverTimeoutMs = 5000, link = async (port) => port } = {}) {
  const servers = [];
  const stop = async () => {
    await Promise.all(servers.map((server) => server.stop()));
  };
  const start = async (options) => {
    const server = await startRedis(options);
    servers.push(server);
    return server;
  };
  try {
    const master = await start({ args });
    const replicas = [];
    const port = await link(master.port);
    for (let i = 0; i < 2; i += 1) replicas.push(await start({ args: [...args, "--replicaof", `127.0.0.1 ${port}`, "--repl-diskless-sync-delay", "0"] }));
    const sentinels = [];
    for (let i = 0; i < 3; i += 1) sentinels.push(await start({ sentinel: watch(master, downAfterMs, failoverTimeoutMs) }));
    const deployment = new Deployment({ master, replicas, sentinels, stop });
    await deployment.settled();
    return deployment;
  } catch (error) {
    await stop();
    throw error;
  }
}

const watch = ({ port }, downAfterMs, failoverTimeoutMs) => [
  `sentinel monitor ${MASTER} 127.0.0.1 ${port} ${QUORUM}`,
  `sentinel down-after-milliseconds ${MASTER} ${downAfterMs}`,
  `sentinel failover-timeout ${MASTER} ${failoverTimeoutMs}`,
];

class Deployment {
  #stop;

  constructor({ master, replicas, sentinels, stop }) {
    this.redises = [master, ...replicas];
    this.sentinels = sentinels;
    this.#stop = stop;
  }

  /** The value of `REDIS_SENTINEL_NODES`. */
  get nodes() {
    return this.sentinels.map(({ host, port }) => `${host}:${port}`).join(",");
  }

  /** Returns the master that the Sentinels name now. */
  async master() {
    const [, port] = await this.#ask("GET-MASTER-ADDR-BY-NAME");
    return this.redises.find((redis) => redis.port === Number(port));
  }

  /** Waits until the Sentinels name another master that has taken the role, and returns it. */
  async promoted(old) {
    return within(this.#promoted(old), "the Sentinels to name another master", TIMEOUT_MS);
  }

  async #promoted(old) {
    for (;;) {
      const master = await this.master();
      if (master !== old && (await isMaster(master))) return master;
      await pause();
    }
  }

  /** Waits until every Sentinel knows the others and both replicas, and the replicas follow the master. */
  async settled() {
    await within(this.#settled(), "the Sentinels to know each other and the replicas", TIMEOUT_MS);
  }

  async #settled() {
    for (const { port } of this.sentinels) {
      for (;;) {
        const state = pairs((await this.#ask("MASTER", port)) ?? []);
        if (state["num-slaves"] === "2" && state["num-other-sentinels"] === "2" && state.flags === "master") break;
        await pause();
      }
    }
    const master = await this.master();
    while (!/slave0:.*state=online[^]*slave1:.*state=online/.test(await command(master, ["INFO", "replication"]))) await pause();
  }

  #ask(what, port = this.sentinels[0].port) {
    return command(this.sentinels.find((sentinel) => sentinel.port === port), ["SENTINEL", what, MASTER]);
  }

  async stop() {
    await this.#stop();
  }
}

async function isMaster(redis) {
  const [role] = await command(redis, ["ROLE"]);
  return role === "master";
}

/** Sends one command on a new connection. */
export async function command(server, words) {
  const client = await server.client();
  try {
    return await client.sendCommand(words);
  } finally {
    client.destroy();
  }
}

const pairs = (list) => (Array.isArray(list) ? Object.fromEntries(list.flatMap((name, i) => (i % 2 ? [] : [[name, list[i + 1]]]))) : { ...list });

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

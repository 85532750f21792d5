/** A Redis Cluster of six nodes on loopback: three masters with a replica each, all real processes. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { within } from "./within.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { startRedis } from "../upstash/redis-server.mjs";

const MASTERS = 3;
const SLOTS = 16_384;

/** For what takes some seconds, on a busy machine. */
const LONGEST_MS = 90_000;

const execute = promisify(execFile);

/** `redis-cli --cluster`; what it printed. */
async function cli(...args) {
  try {
    const { stdout } = await execute("redis-cli", ["--cluster", ...args, "--cluster-yes"], { timeout: LONGEST_MS });
    return stdout;
  } catch (error) {
    throw new Error(`redis-cli --cluster ${args.join(" ")}: ${error.message}\n${error.stdout}`, { cause: error });
  }
}

/**
 * @param {object} [options]
 * @param {string[]} [options.args] further arguments of each node
 * @param {number} [options.nodeTimeoutMs] how long a node is silent before the others take it for gone
 */
export async function startCluster({ args = [], nodeTimeoutMs = 2000 } = {}) {
  const nodes = [];
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    for (let i = 0; i < 2 * MASTERS; i += 1) {
      // By default the nodes' own port is 10000 above, where there may be none.
      const bus = ["--cluster-port", String(await freePort())];
      nodes.push(await startRedis({ args: ["--cluster-enabled", "yes", "--cluster-node-timeout", String(nodeTimeoutMs), "--repl-diskless-sync-delay", "0", ...bus, ...args] }));
    }
    await cli("create", ...nodes.map(address), "--cluster-replicas", "1");
    const cluster = new Cluster(nodes, stop);
    await cluster.settled();
    return cluster;
  } catch (error) {
    await stop();
    throw error;
  }
}

const address = ({ host, port }) => `${host}:${port}`;

class Cluster {
  #stop;

  constructor(redises, stop) {
    this.redises = redises;
    this.#stop = stop;
  }

  /** `REDIS_CLUSTER_NODES`: some of them, which name the others. */
  get nodes() {
    return this.redises.slice(0, 2).map(address).join(",");
  }

  /**
   * What a node knows of all of them.
   *
   * @returns {Promise<{server: object, id: string, flags: string[], master: string, slots: number, ranges: [number, number][]}[]>}
   */
  async view(from = this.redises.find(({ pid }) => pid)) {
    const text = await command(from, ["CLUSTER", "NODES"]);
    return text.trim().split("\n").map((line) => {
      const [id, place, flags, master, , , , , ...words] = line.split(" ");
      const port = Number(/:(\d+)/.exec(place)[1]);
      const own = words.filter((word) => !word.startsWith("[")).map((range) => range.split("-").map(Number)).map(([first, last = first]) => [first, last]);
      const slots = own.reduce((sum, [first, last]) => sum + last - first + 1, 0);
      return { server: this.redises.find((redis) => redis.port === port), id, flags: flags.split(","), master, slots, ranges: own };
    });
  }

  /** The masters that have slots. */
  async masters() {
    const nodes = await this.view();
    return nodes.filter(({ flags, slots }) => flags.includes("master") && !flags.includes("fail") && slots > 0);
  }

  /** The master of a slot. */
  async ownerOf(slot) {
    return (await this.masters()).find(({ ranges }) => ranges.some(([first, last]) => first <= slot && slot <= last));
  }

  /** Waits until all nodes that run agree, every slot has a master that runs, and `replicas` replicas follow theirs. */
  async settled(replicas = MASTERS) {
    await within(this.#settled(replicas), "a cluster that is whole", LONGEST_MS);
  }

  async #settled(replicas) {
    for (const redis of this.redises.filter(({ pid }) => pid)) while (!(await isWhole(this, redis, replicas))) await pause();
    while (!(await this.#agrees())) await pause();
  }

  /** Whether all nodes that run name the same masters, with the same slots: `redis-cli` changes nothing otherwise. */
  async #agrees() {
    const views = await Promise.all(this.redises.filter(({ pid }) => pid).map((redis) => this.view(redis)));
    const texts = views.map((nodes) => JSON.stringify(nodes.filter(({ slots }) => slots > 0).map(({ id, ranges }) => [id, ranges]).sort()));
    return new Set(texts).size === 1;
  }

  /** Moves so many slots from one master to another, while keys are in use. */
  async reshard(from, to, slots) {
    await cli("reshard", address(from.server), "--cluster-from", from.id, "--cluster-to", to.id, "--cluster-slots", String(slots));
    await this.settled();
  }

  /** Lets a master's replica take its place, by agreement; the new master. */
  async failover(master) {
    const replica = (await this.view()).find((node) => node.master === master.id);
    await command(replica.server, ["CLUSTER", "FAILOVER"]);
    return within(this.#promoted(replica), "another master", LONGEST_MS);
  }

  /** Waits until a replica of a master that is gone has taken its place; the new master. */
  async promoted(master) {
    const replicas = (await this.view(this.redises.find((redis) => redis.pid && redis !== master.server))).filter((node) => node.master === master.id);
    return within(replicas.length > 0 ? this.#promoted(replicas[0]) : this.settled(MASTERS - 1), "another master", LONGEST_MS);
  }

  async #promoted(replica) {
    for (;;) {
      const mine = (await this.view(replica.server)).find(({ id }) => id === replica.id);
      if (mine.flags.includes("master") && mine.slots > 0) return mine;
      await pause();
    }
  }

  /** Runs a command on every master; the replies. */
  async onMasters(words) {
    return Promise.all((await this.masters()).map(({ server }) => command(server, words)));
  }

  async stop() {
    await this.#stop();
  }
}

async function isWhole(cluster, redis, replicas) {
  const nodes = (await cluster.view(redis)).filter(({ server }) => server.pid);
  const masters = nodes.filter(({ flags }) => flags.includes("master"));
  const following = [];
  // One that has not been synchronised yet is never promoted.
  for (const node of nodes.filter(({ flags }) => flags.includes("slave"))) {
    if ((await command(node.server, ["INFO", "replication"])).includes("master_link_status:up")) following.push(node);
  }
  const state = await command(redis, ["CLUSTER", "INFO"]);
  const slots = masters.reduce((sum, node) => sum + node.slots, 0);
  return state.includes("cluster_state:ok") && slots === SLOTS && following.length >= replicas;
}

/** One command on a connection of its own. */
export async function command(server, words) {
  const client = await server.client();
  try {
    return await client.sendCommand(words);
  } finally {
    client.destroy();
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

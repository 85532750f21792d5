/** A Redis Cluster of six nodes on loopback: three masters with a replica each, all real processes. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { within } from "./within.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { startRedis } from "../upstash/redis-server.mjs";

const MASTERS = 3;
const SLOTS = 16_384;

/** Enough on a busy machine for anything that usually takes some seconds. */
const TIMEOUT_MS = 90_000;

const execute = promisify(execFile);

/** Runs `redis-cli --cluster` and returns what it printed. */
async function cli(...args) {
  try {
    const { stdout } = await execute("redis-cli", ["--cluster", ...args, "--cluster-yes"], { timeout: TIMEOUT_MS });
    return stdout;
  } catch (error) {
    throw new Error(`redis-cli --cluster ${args.join(" ")}: ${error.message}\n${error.stdout}`, { cause: error });
  }
}

/**
 * @param {object} [options]
 * @param {string[]} [options.args] further arguments of each node
 * @param {number} [options.nodeTimeoutMs] after so much silence the other nodes treat a node as failed
 */
export async function startCluster({ args = [], nodeTimeoutMs = 2000 } = {}) {
  const nodes = [];
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  try {
    for (let i = 0; i < 2 * MASTERS; i += 1) {
      // The cluster port is the node's port + 10000 by default, which can exceed the highest port.
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

  /** The value of `REDIS_CLUSTER_NODES`: two of the nodes, which name the others. */
  get nodes() {
    return this.redises.slice(0, 2).map(address).join(",");
  }

  /**
   * Returns what one node knows of all nodes.
   *
   * @returns {Promise<{server: object, id: string, flags: string[], master: string, slots: number, ranges: [number, number][]}[]>}
   */
  async view(from = this.redises.find(({ pid }) => pid)) {
    const text = await command(from, ["CLUSTER", "NODES"]);
    return text.trim().split("\n").map((line) => {
      const [id, place, flags, master, , , , , ...words] = line.split(" ");
      const port = Number(/:(\d+)/.exec(place)[1]);
      const ranges = words.filter((word) => !word.startsWith("[")).map((range) => range.split("-").map(Number)).map(([first, last = first]) => [first, last]);
      const slots = ranges.reduce((sum, [first, last]) => sum + last - first + 1, 0);
      return { server: this.redises.find((redis) => redis.port === port), id, flags: flags.split(","), master, slots, ranges };
    });
  }

  /** Returns the masters that have slots. */
  async masters() {
    const nodes = await this.view();
    return nodes.filter(({ flags, slots }) => flags.includes("master") && !flags.includes("fail") && slots > 0);
  }

  /** Returns the master of a slot. */
  async ownerOf(slot) {
    return (await this.masters()).find(({ ranges }) => ranges.some(([first, last]) => first <= slot && slot <= last));
  }

  /** Waits until all running nodes agree, every slot has a running master, and `replicas` replicas follow their masters. */
  async settled(replicas = MASTERS) {
    await within(this.#settled(replicas), "the cluster to be complete", TIMEOUT_MS);
  }

  async #settled(replicas) {
    for (const redis of this.redises.filter(({ pid }) => pid)) while (!(await isWhole(this, redis, replicas))) await pause();
    while (!(await this.#agrees())) await pause();
  }

  /** Whether all running nodes name the same masters with the same slots. Otherwise `redis-cli` refuses every change. */
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

  /** Makes a master's replica take its place with the master's consent, and returns the new master. */
  async failover(master) {
    const replica = (await this.view()).find((node) => node.master === master.id);
    await command(replica.server, ["CLUSTER", "FAILOVER"]);
    return within(this.#promoted(replica), "a replica to become the master", TIMEOUT_MS);
  }

  /** Waits until a replica has taken the place of a master that has ended, and returns the new master. */
  async promoted(master) {
    const replicas = (await this.view(this.redises.find((redis) => redis.pid && redis !== master.server))).filter((node) => node.master === master.id);
    return within(replicas.length > 0 ? this.#promoted(replicas[0]) : this.settled(MASTERS - 1), "a replica to become the master", TIMEOUT_MS);
  }

  async #promoted(replica) {
    for (;;) {
      const node = (await this.view(replica.server)).find(({ id }) => id === replica.id);
      if (node.flags.includes("master") && node.slots > 0) return node;
      await pause();
    }
  }

  /** Runs a command on every master and returns the replies. */
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
  // Only a synchronised replica can be promoted.
  for (const node of nodes.filter(({ flags }) => flags.includes("slave"))) {
    if ((await command(node.server, ["INFO", "replication"])).includes("master_link_status:up")) following.push(node);
  }
  const state = await command(redis, ["CLUSTER", "INFO"]);
  const slots = masters.reduce((sum, node) => sum + node.slots, 0);
  return state.includes("cluster_state:ok") && slots === SLOTS && following.length >= replicas;
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

const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

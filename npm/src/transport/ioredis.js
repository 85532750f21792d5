/** Redis over TCP or TLS, behind Sentinel or in a cluster, through `ioredis`, in Node.js, Bun and Deno. */
import { FAILED } from "../statuses.js";
import { overIoredis } from "./client.js";
import { isRefusal } from "./replies.js";
import { event, once } from "./waits.js";

/** What the host reaches (src/wire/redis.rs). */
export const REACH = 2;

/** A connection from which nothing comes for so long, although something is waited for, is given up; at least, in ms. */
const LEAST_SOCKET_TIMEOUT_MS = 1000;

const MISSING = "REDIS_URL, REDIS_SENTINEL and REDIS_CLUSTER need the package ioredis: npm install ioredis. Memory decides until then.";

/**
 * One client for all calls, made at the first one. It connects when it is called and is not connected, never by a timer, and keeps
 * no process alive.
 *
 * @param {object} redis as the module says (src/wire/redis.rs)
 * @returns {import("./rest.js").Transport & {close: () => Promise<void>}}
 */
export function connect(redis) {
  let transport, client;
  const underWay = new Set();
  const open = async (timeout) => {
    const ioredis = await load();
    if (!ioredis) return { call: async () => [FAILED, ""] };
    client = make(ioredis, redis, Math.max(timeout, LEAST_SOCKET_TIMEOUT_MS));
    return overIoredis(client, (wait) => ready(client, wait));
  };
  return {
    async call(body, timeout) {
      transport ??= open(timeout);
      const call = transport.then((opened) => opened.call(body, timeout));
      underWay.add(call);
      try {
        return await call;
      } finally {
        underWay.delete(call);
      }
    },
    async close() {
      // None waits longer than its timeout.
      await Promise.allSettled(underWay);
      if (client === undefined || ["wait", "end"].includes(client.status)) return;
      // Connecting before it has ended would fail.
      const ended = event(client, "end", [], LEAST_SOCKET_TIMEOUT_MS).catch(() => {});
      client.disconnect();
      await ended;
    },
  };
}

/** The last error of a client that is not connected: Redis may have refused the password. */
const lastErrors = new WeakMap();

async function ready(client, timeout) {
  if (client.status !== "ready") await connected(client, timeout);
  if (client.isCluster) await Promise.all(client.nodes("master").map((node) => begun(node, timeout)));
}

async function connected(client, timeout) {
  const connecting = () => {
    if (client.status.startsWith("connect")) return event(client, "ready", ["close", "end"], timeout);
    lastErrors.delete(client);
    return client.connect();
  };
  try {
    await once(client, connecting, timeout);
  } catch (error) {
    const reason = lastErrors.get(client) ?? error;
    const cause = reason.lastNodeError ?? error.lastNodeError ?? reason;
    throw isRefusal(cause) ? cause : error;
  }
}

const begins = new WeakMap();

/**
 * A node that the cluster has just learned of is connected by its first command, and refuses others until it is. So all wait
 * for that once, for half of their time: a node that does not answer holds up no other's commands for longer.
 */
function begun(node, timeout) {
  if (!begins.has(node)) {
    begins.set(node, node.status === "ready" ? undefined : connects(node, timeout));
  }
  return begins.get(node);
}

async function connects(node, timeout) {
  const connecting = node.status === "wait" ? node.connect() : event(node, "ready", ["close", "end"], timeout);
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, timeout / 2)));
  await Promise.race([connecting.catch(() => {}), late]);
  clearTimeout(timer);
}

let loads;

/** Its module; `undefined`: it is not installed. */
const load = () => (loads ??= loaded());

async function loaded() {
  try {
    // Bundlers take it along where it is installed, and do without where it is not.
    return await import(/* turbopackOptional: true */ "ioredis");
  } catch {
    console.error(MISSING);
    return undefined;
  }
}

function make({ Redis, Cluster }, redis, socketTimeout) {
  const { topology, nodes, username, password, database, ca, name, sentinelUsername, sentinelPassword } = redis;
  const tls = redis.tls ? { ca: ca ?? undefined } : undefined;
  const options = {
    username: username ?? undefined, password: password ?? undefined, tls, lazyConnect: true, connectTimeout: socketTimeout, socketTimeout,
    // The limiter repeats what may be repeated, and no decision.
    maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false, enableOfflineQueue: false, retryStrategy: null, reconnectOnError: hasMoved,
    // What neither is needed nor may be permitted.
    enableReadyCheck: false, disableClientInfo: true, family: 0, protocol: 2,
  };
  if (topology === "cluster") {
    // Servers whose names are given are known by their names alone to certificates.
    const dnsLookup = redis.tls ? (address, callback) => callback(null, address) : undefined;
    const { lazyConnect, ...ofNodes } = options;
    const cluster = new Cluster(nodes, {
      redisOptions: ofNodes, lazyConnect, dnsLookup, clusterRetryStrategy: null, enableReadyCheck: false, enableOfflineQueue: false, slotsRefreshTimeout: socketTimeout,
      // Above 0, a command whose connection has broken is sent again.
      retryDelayOnFailover: 0, maxRedirections: 5, scaleReads: "master",
    });
    cluster.on("+node", (node) => node.on("connect", () => keepsNobody(node)));
    return quiet(cluster);
  }
  const where = topology === "sentinel"
    ? {
      name, sentinels: nodes, sentinelUsername: sentinelUsername ?? undefined, sentinelPassword: sentinelPassword ?? undefined, sentinelTLS: tls, sentinelCommandTimeout: socketTimeout,
      enableTLSForSentinelMode: redis.tls, sentinelRetryStrategy: null,
    }
    : nodes[0];
  const client = new Redis({ ...options, ...where, db: database });
  client.on("connect", () => keepsNobody(client));
  return quiet(client);
}

/** A master that has become a replica: the next call finds the new one. This one is not sent again. */
const hasMoved = (error) => (error.message.startsWith("READONLY") ? 1 : false);

/** A process that has nothing else to do may end. */
const keepsNobody = ({ stream }) => stream?.unref?.();

/** Calls reject as well; an event that nobody listens to would end the process. */
function quiet(client) {
  client.on("error", (error) => lastErrors.set(client, error));
  return client;
}

/** Redis over TCP or TLS, behind Sentinel or in a cluster, through `ioredis`, in Node.js, Bun and Deno. */
import { FAILED } from "../statuses.js";
import { overIoredis } from "./client.js";
import { isRefusal } from "./replies.js";
import { waitForEvent, waitOnce } from "./waits.js";

/** The servers that this transport reaches: all (src/wire/redis.rs). */
export const REACH = 2;

/** A connection is closed if a reply is due and nothing arrives for the timeout of a call, but not earlier than this. */
const MIN_SOCKET_TIMEOUT_MS = 1000;

const MISSING = "REDIS_URL, REDIS_SENTINEL and REDIS_CLUSTER need the package ioredis: npm install ioredis. Memory decides until then.";

/**
 * A transport with one client for all calls, which the first call creates. The client connects only when it is called and not
 * connected, never by a timer. It keeps no process alive.
 *
 * @param {object} redis the server, as `server` in src/wire/redis.rs describes it
 * @returns {import("./rest.js").Transport & {close: () => Promise<void>}}
 */
export function connect(redis) {
  let transport, client;
  const underWay = new Set();
  const open = async (timeout) => {
    const ioredis = await loadOnce();
    if (!ioredis) return { call: async () => [FAILED, ""] };
    client = makeClient(ioredis, redis, Math.max(timeout, MIN_SOCKET_TIMEOUT_MS));
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
      // No call lasts longer than its timeout.
      await Promise.allSettled(underWay);
      if (client === undefined || ["wait", "end"].includes(client.status)) return;
      // A later call could not connect the client again before it has ended.
      const ended = waitForEvent(client, "end", [], MIN_SOCKET_TIMEOUT_MS).catch(() => {});
      client.disconnect();
      await ended;
    },
  };
}

/** The last error that each client emitted. It says why a client is not connected, such as a refused password. */
const lastErrors = new WeakMap();

async function ready(client, timeout) {
  if (client.status !== "ready") await connectClient(client, timeout);
  if (client.isCluster) await Promise.all(client.nodes("master").map((node) => connectNodeOnce(node, timeout)));
}

async function connectClient(client, timeout) {
  const connecting = () => {
    if (client.status.startsWith("connect")) return waitForEvent(client, "ready", ["close", "end"], timeout);
    lastErrors.delete(client);
    return client.connect();
  };
  try {
    await waitOnce(client, connecting, timeout);
  } catch (error) {
    const reason = lastErrors.get(client) ?? error;
    const cause = reason.lastNodeError ?? error.lastNodeError ?? reason;
    throw isRefusal(cause) ? cause : error;
  }
}

const nodeConnections = new WeakMap();

/**
 * Waits once for a node that the cluster has just discovered. ioredis connects such a node at its first command, and the node refuses
 * other commands until it is connected. The wait ends after half of the timeout, so that a node that does not answer
 * delays the commands to other nodes no longer.
 */
function connectNodeOnce(node, timeout) {
  if (!nodeConnections.has(node)) {
    nodeConnections.set(node, node.status === "ready" ? undefined : connectNode(node, timeout));
  }
  return nodeConnections.get(node);
}

async function connectNode(node, timeout) {
  const connecting = node.status === "wait" ? node.connect() : waitForEvent(node, "ready", ["close", "end"], timeout);
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, timeout / 2)));
  await Promise.race([connecting.catch(() => {}), late]);
  clearTimeout(timer);
}

let loading;

/** The package ioredis; `undefined` if it is not installed. */
const loadOnce = () => (loading ??= load());

async function load() {
  try {
    // Bundlers include the package if it is installed. The comment tells Turbopack that it may be missing.
    return await import(/* turbopackOptional: true */ "ioredis");
  } catch {
    console.error(MISSING);
    return undefined;
  }
}

function makeClient({ Redis, Cluster }, redis, socketTimeout) {
  const { topology, nodes, username, password, database, ca, name, sentinelUsername, sentinelPassword } = redis;
  const tls = redis.tls ? { ca: ca ?? undefined } : undefined;
  const options = {
    username: username ?? undefined, password: password ?? undefined, tls, lazyConnect: true, connectTimeout: socketTimeout, socketTimeout,
    // The client repeats nothing: the limiter itself repeats the calls that may be repeated, and never a decision.
    maxRetriesPerRequest: 0, autoResendUnfulfilledCommands: false, enableOfflineQueue: false, retryStrategy: null, reconnectOnError: hasMoved,
    // No `INFO` and no `CLIENT`: the limiter does not need them, and the Redis user may lack the permission.
    enableReadyCheck: false, disableClientInfo: true, family: 0, protocol: 2,
  };
  if (topology === "cluster") {
    // With TLS the names of servers stay unresolved, because certificates are issued for names.
    const dnsLookup = redis.tls ? (address, callback) => callback(null, address) : undefined;
    const { lazyConnect, ...ofNodes } = options;
    const cluster = new Cluster(nodes, {
      redisOptions: ofNodes, lazyConnect, dnsLookup, clusterRetryStrategy: null, enableReadyCheck: false, enableOfflineQueue: false, slotsRefreshTimeout: socketTimeout,
      // With a delay above 0, ioredis would send a command again after its connection broke.
      retryDelayOnFailover: 0, maxRedirections: 5, scaleReads: "master",
    });
    cluster.on("+node", (node) => node.on("connect", () => unrefStream(node)));
    return recordErrors(cluster);
  }
  const where = topology === "sentinel"
    ? {
      name, sentinels: nodes, sentinelUsername: sentinelUsername ?? undefined, sentinelPassword: sentinelPassword ?? undefined, sentinelTLS: tls, sentinelCommandTimeout: socketTimeout,
      enableTLSForSentinelMode: redis.tls, sentinelRetryStrategy: null,
    }
    : nodes[0];
  const client = new Redis({ ...options, ...where, db: database });
  client.on("connect", () => unrefStream(client));
  return recordErrors(client);
}

/** Reconnects (1) if the master has become a replica, so that the next call finds the new master. The failed command is not sent again (that would be 2). */
const hasMoved = (error) => (error.message.startsWith("READONLY") ? 1 : false);

/** Lets a process end that has nothing else to do. */
const unrefStream = ({ stream }) => stream?.unref?.();

/** Listens to errors, because an `error` event without a listener ends the process. Calls report the error by rejecting. */
function recordErrors(client) {
  client.on("error", (error) => lastErrors.set(client, error));
  return client;
}

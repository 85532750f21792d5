/** The application's own Redis client, of `ioredis`, `redis` or `@upstash/redis`. */
import { LimiterError } from "../errors.js";
import { inCluster } from "./cluster.js";
import { overClient } from "./replies.js";
import { overRest } from "./rest.js";
import { event, once } from "./waits.js";

/**
 * @typedef {object} Client
 * @property {number} number which one, from 1 on
 * @property {boolean} isCluster whether it is connected to a cluster
 * @property {import("./rest.js").Transport} transport
 */

const known = new WeakMap();
let count = 0;

/**
 * The way to Redis that a client is: the same one each time.
 *
 * @param {unknown} client
 * @returns {Client}
 * @throws {LimiterError} `bad_argument`
 */
export function clientOf(client) {
  if (client === null || (typeof client !== "object" && typeof client !== "function")) throw new LimiterError("bad_argument", ACCEPTED);
  let found = known.get(client);
  if (!found) {
    found = { number: (count += 1), ...recognised(client) };
    known.set(client, found);
  }
  return found;
}

const ACCEPTED = "redis must be a client: of ioredis (Redis, Cluster), of redis (createClient, createClientPool, createCluster, createSentinel), or of @upstash/redis (Redis).";

/** By what they can do: an application may have several versions of a package. */
function recognised(client) {
  if (typeof client.sendCommand === "function" && typeof client.connect === "function") {
    const isIoredis = typeof client.call === "function" && typeof client.status === "string";
    const isCluster = isIoredis ? client.isCluster === true : typeof client.nodeClient === "function" && Array.isArray(client.masters);
    refuseOptions(client.options, isCluster);
    if (isIoredis) return { isCluster, transport: overIoredis(client, (timeout) => applicationsIoredis(client, timeout)) };
    return { isCluster, transport: isCluster ? overNodeRedisCluster(client) : overNodeRedis(client) };
  }
  const rest = client.client;
  const [scheme, token] = String(rest?.headers?.authorization ?? "").split(" ");
  if (typeof rest?.baseUrl === "string" && scheme === "Bearer" && token) {
    // Not by its own calls, which are repeated after a failure: a decision could count twice.
    return { isCluster: false, transport: overRest({ url: rest.baseUrl, token }) };
  }
  throw new LimiterError("bad_argument", ACCEPTED);
}

/** Options with which scripts cannot work. */
function refuseOptions(options, isCluster) {
  const has = (name) => [options, options?.redisOptions].some((given) => given?.[name]);
  const refuse = (why) => {
    throw new LimiterError("bad_argument", `redis has ${why}`);
  };
  if (has("keyPrefix")) refuse("a keyPrefix, which the arguments of scripts do not get. Use a client without one, and REDIS_KEY_PREFIX.");
  if (has("stringNumbers")) refuse("stringNumbers, by which numbers and texts cannot be told apart. Use a client without it.");
  if (isCluster && has("enableAutoPipelining")) refuse("enableAutoPipelining in a cluster, by which ioredis 5 sends scripts to the wrong node. Use a client without it.");
}

/** A client of ioredis: a Redis, alone or behind Sentinel, or a Cluster. */
export function overIoredis(client, ready) {
  const run = ([name, ...words]) => client.call(name, ...words);
  const masters = async () => {
    const nodes = client.nodes("master").sort((one, other) => String(one.options.key ?? one.options.port).localeCompare(String(other.options.key ?? other.options.port)));
    return nodes.map((node) => ([name, ...words]) => node.call(name, ...words));
  };
  return overClient(client.isCluster ? (words) => inCluster(words, run, masters) : run, ready);
}

/** The application connects its client again, or has ended it: only one that waits for its first command is connected. */
async function applicationsIoredis(client, timeout) {
  switch (client.status) {
    case "ready": return undefined;
    case "wait": return once(client, () => client.connect(), timeout);
    case "end": throw new Error("ended");
    default: return once(client, () => event(client, "ready", ["end"], timeout), timeout);
  }
}

/** Texts are texts, whatever the client makes of them otherwise; and a command that waits in its queue goes when the call is given up. */
const commandOptions = (signal) => ({ typeMapping: {}, abortSignal: signal() });

const NOT_CONNECTED = "redis is not connected: call connect() on the client before the limiter is used. Memory decides until then.";
const warned = new WeakSet();

/** A client that nobody has connected is connected by nobody here: its errors are the application's. */
async function readyNodeRedis(client, timeout) {
  if (client.isReady ?? client.isOpen) return undefined;
  if (client.isOpen) return once(client, () => event(client, "ready", ["error", "end"], timeout), timeout);
  if (!warned.has(client)) {
    warned.add(client);
    console.error(NOT_CONNECTED);
  }
  throw new Error("not connected");
}

/** A client of `redis`, a pool of them, or one behind Sentinel. */
function overNodeRedis(client) {
  // Behind Sentinel, whether a replica will do is asked first.
  const isSentinel = typeof client.getMasterNode === "function" || typeof client.acquire === "function";
  const run = isSentinel
    ? (words, signal) => client.sendCommand(false, words, commandOptions(signal))
    : (words, signal) => client.sendCommand(words, commandOptions(signal));
  return overClient(run, (timeout) => readyNodeRedis(client, timeout));
}

function overNodeRedisCluster(client) {
  const run = (signal) => (words, key) => client.sendCommand(key, false, words, commandOptions(signal));
  const masters = (signal) => async () => {
    const nodes = [...client.masters].sort((one, other) => one.address.localeCompare(other.address));
    return Promise.all(nodes.map(async (node) => {
      const one = await client.nodeClient(node);
      return (words) => one.sendCommand(words, commandOptions(signal));
    }));
  };
  return overClient((words, signal) => inCluster(words, run(signal), masters(signal)), (timeout) => readyNodeRedis(client, timeout));
}

/** The application's own Redis client, of `ioredis`, `redis` or `@upstash/redis`. */
import { LimiterError } from "../errors.js";
import { inCluster } from "./cluster.js";
import { overClient } from "./replies.js";
import { overRest } from "./rest.js";

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
  if (typeof client.sendCommand === "function" && typeof client.call === "function") {
    const isCluster = client.isCluster === true;
    const { keyPrefix, stringNumbers } = { ...client.options, ...(isCluster ? client.options?.redisOptions : undefined) };
    // Scripts are passed keys among their arguments as well, which ioredis does not know.
    if (keyPrefix || client.options?.keyPrefix) throw new LimiterError("bad_argument", "redis has a keyPrefix, which scripts' arguments do not get. Use a client without one, and REDIS_KEY_PREFIX.");
    if (stringNumbers) throw new LimiterError("bad_argument", "redis has stringNumbers, by which numbers and texts cannot be told apart. Use a client without it.");
    return { isCluster, transport: overIoredis(client) };
  }
  if (typeof client.sendCommand === "function" && typeof client.connect === "function") {
    const isCluster = typeof client.nodeClient === "function" && Array.isArray(client.masters);
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

/** A client of ioredis: a Redis, alone or behind Sentinel, or a Cluster. */
export function overIoredis(client) {
  const run = ([name, ...words]) => client.call(name, ...words);
  const masters = async () => {
    const nodes = client.nodes("master").sort((one, other) => String(one.options.key ?? one.options.port).localeCompare(String(other.options.key ?? other.options.port)));
    return nodes.map((node) => ([name, ...words]) => node.call(name, ...words));
  };
  return overClient(client.isCluster ? (words) => inCluster(words, run, masters) : run, (timeout) => readyIoredis(client, timeout));
}

/** States of an ioredis client in which `connect` may be called. */
const IDLE = new Set(["wait", "end", "close", "reconnecting", "disconnecting"]);

async function readyIoredis(client, timeout) {
  if (client.status === "ready") return undefined;
  return once(client, () => (IDLE.has(client.status) ? client.connect() : event(client, "ready", ["close", "end"], timeout)));
}

/** What clients are waited for, by all calls together. */
const waits = new WeakMap();

function once(client, wait) {
  if (!waits.has(client)) waits.set(client, wait().finally(() => waits.delete(client)));
  return waits.get(client);
}

/** Resolves with an event; rejects with another one, or after a time. */
function event(emitter, wanted, others, timeout) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, timeout, new Error(`no ${wanted} in time`));
    const over = (end) => () => {
      clearTimeout(timer);
      emitter.off(wanted, good);
      for (const other of others) emitter.off(other, bad);
      end();
    };
    const good = over(resolve);
    const bad = over(() => reject(new Error(`not ${wanted}`)));
    emitter.once(wanted, good);
    for (const other of others) emitter.once(other, bad);
  });
}

/** Texts are texts, whatever the client makes of them otherwise. */
const AS_TEXTS = { typeMapping: {} };

const NOT_CONNECTED = "redis is not connected: call connect() on the client before the limiter is used. Memory decides until then.";
const told = new WeakSet();

/** A client that nobody has connected is connected by nobody here: its errors are the application's. */
async function readyNodeRedis(client, timeout) {
  if (client.isReady ?? client.isOpen) return undefined;
  if (client.isOpen) return once(client, () => event(client, "ready", ["error", "end"], timeout));
  if (!told.has(client)) {
    told.add(client);
    console.error(NOT_CONNECTED);
  }
  throw new Error("not connected");
}

/** A client of `redis`, a pool of them, or one behind Sentinel. */
function overNodeRedis(client) {
  // Behind Sentinel, whether a replica will do is asked first.
  const isSentinel = typeof client.getMasterNode === "function" || typeof client.acquire === "function";
  const run = isSentinel ? (words) => client.sendCommand(false, words, AS_TEXTS) : (words) => client.sendCommand(words, AS_TEXTS);
  return overClient(run, (timeout) => readyNodeRedis(client, timeout));
}

function overNodeRedisCluster(client) {
  const run = (words, key) => client.sendCommand(key, false, words, AS_TEXTS);
  const masters = async () => {
    const nodes = [...client.masters].sort((one, other) => one.address.localeCompare(other.address));
    return Promise.all(nodes.map(async (node) => {
      const one = await client.nodeClient(node);
      return (words) => one.sendCommand(words, AS_TEXTS);
    }));
  };
  return overClient((words) => inCluster(words, run, masters), (timeout) => readyNodeRedis(client, timeout));
}

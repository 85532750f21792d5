/** Transports over the application's own Redis client: of `ioredis`, `redis` or `@upstash/redis`. */
import { LimiterError } from "../errors.js";
import { inCluster } from "./cluster.js";
import { overClient } from "./replies.js";
import { overRest } from "./rest.js";
import { waitForEvent, waitOnce } from "./waits.js";

/**
 * @typedef {object} Client
 * @property {number} number identifies the client in this process, from 1
 * @property {boolean} isCluster whether the client is connected to a cluster
 * @property {import("./rest.js").Transport} transport
 */

const knownClients = new WeakMap();
let count = 0;

/**
 * Wraps the application's client. The same client gives the same result each time.
 *
 * @param {unknown} client
 * @returns {Client}
 * @throws {LimiterError} `bad_argument`
 */
export function clientOf(client) {
  if (client === null || (typeof client !== "object" && typeof client !== "function")) throw new LimiterError("bad_argument", ACCEPTED);
  let found = knownClients.get(client);
  if (!found) {
    found = { number: (count += 1), ...recognised(client) };
    knownClients.set(client, found);
  }
  return found;
}

const ACCEPTED = "redis must be a client: of ioredis (Redis, Cluster), of redis (createClient, createClientPool, createCluster, createSentinel), or of @upstash/redis (Redis).";

/** Recognises a client by its methods, because an application may use any version of a package, or several. */
function recognised(client) {
  if (typeof client.sendCommand === "function" && typeof client.connect === "function") {
    const isIoredis = typeof client.call === "function" && typeof client.status === "string";
    const isCluster = isIoredis ? client.isCluster === true : typeof client.nodeClient === "function" && Array.isArray(client.masters);
    refuseOptions(client.options, isCluster);
    if (isIoredis) return { isCluster, transport: overIoredis(client, (timeout) => readyIoredis(client, timeout)) };
    return { isCluster, transport: isCluster ? overNodeRedisCluster(client) : overNodeRedis(client) };
  }
  const rest = client.client;
  const [scheme, token] = String(rest?.headers?.authorization ?? "").split(" ");
  if (typeof rest?.baseUrl === "string" && scheme === "Bearer" && token) {
    // The client's own calls are not used: they repeat a failed call, and a decision could count twice.
    return { isCluster: false, transport: overRest({ url: rest.baseUrl, token }) };
  }
  throw new LimiterError("bad_argument", ACCEPTED);
}

/** Throws for options with which the limiter's scripts cannot work. */
function refuseOptions(options, isCluster) {
  const has = (name) => [options, options?.redisOptions].some((object) => object?.[name]);
  const refuse = (why) => {
    throw new LimiterError("bad_argument", `redis has ${why}`);
  };
  if (has("keyPrefix")) refuse("a keyPrefix, which is not added to the arguments of scripts. Use a client without one, and set REDIS_KEY_PREFIX.");
  if (has("stringNumbers")) refuse("stringNumbers, which makes numbers and texts in replies look the same. Use a client without it.");
  if (isCluster && has("enableAutoPipelining")) refuse("enableAutoPipelining, with which ioredis 5 sends scripts to the wrong node of a cluster. Use a client without it.");
}

/** A transport over a client of ioredis: a `Redis`, alone or behind Sentinel, or a `Cluster`. */
export function overIoredis(client, ready) {
  const run = ([name, ...words]) => client.call(name, ...words);
  const masters = async () => {
    const nodes = client.nodes("master").sort((one, other) => String(one.options.key ?? one.options.port).localeCompare(String(other.options.key ?? other.options.port)));
    return nodes.map((node) => ([name, ...words]) => node.call(name, ...words));
  };
  return overClient(client.isCluster ? (words) => inCluster(words, run, masters) : run, ready);
}

/**
 * Waits until the application's client is ready. The limiter connects it only if it waits for its first command (`lazyConnect`): reconnecting
 * a client or ending it is up to the application.
 */
async function readyIoredis(client, timeout) {
  switch (client.status) {
    case "ready": return undefined;
    case "wait": return waitOnce(client, () => client.connect(), timeout);
    case "end": throw new Error("the application has ended its ioredis client");
    default: return waitOnce(client, () => waitForEvent(client, "ready", ["end"], timeout), timeout);
  }
}

/**
 * Options of a command of `redis`. An empty type mapping returns texts as strings, even if the application maps them to something else.
 * The signal removes the command from the client's queue when the call times out.
 */
const commandOptions = (signal) => ({ typeMapping: {}, abortSignal: signal() });

const NOT_CONNECTED = "redis is not connected: call connect() on the client before the limiter is used. Memory decides until then.";
const warned = new WeakSet();

/** Waits until the application's client is ready. It never connects the client: the application has to listen to its errors first. */
async function readyNodeRedis(client, timeout) {
  if (client.isReady ?? client.isOpen) return undefined;
  if (client.isOpen) return waitOnce(client, () => waitForEvent(client, "ready", ["error", "end"], timeout), timeout);
  if (!warned.has(client)) {
    warned.add(client);
    console.error(NOT_CONNECTED);
  }
  throw new Error(NOT_CONNECTED);
}

/** A transport over a client of `redis`, a pool of them, or a client behind Sentinel. */
function overNodeRedis(client) {
  // Behind Sentinel, the first argument says whether a replica may run the command.
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

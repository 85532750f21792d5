/** The faults of the reliability matrix: how each is caused and ended, and what a test must see of it. */

import { startRedis } from "../../upstash/redis-server.mjs";
import { startStandIn } from "../../upstash/stand-in.mjs";

/** A Redis and the stand-in in front of it. A fault can stop either. */
export class Store {
  #earlier = 0;

  static async start({ redisArgs = [] } = {}) {
    const store = new Store();
    store.redis = await startRedis({ args: redisArgs });
    store.standIn = await startStandIn({ redis: store.redis });
    return store;
  }

  /** Returns the number of HTTP requests so far. */
  calls() {
    return this.#earlier + this.standIn.requests().count;
  }

  /** Returns the commands of the last requests. */
  commands() {
    return this.standIn.requests().last.flatMap(({ commands }) => commands);
  }

  /** Stops the stand-in, so that nothing listens at its address. */
  async close() {
    await this.standIn.stop();
  }

  /** Starts the stand-in again at the same address. */
  async open() {
    this.#earlier += this.standIn.requests().count;
    const port = Number(new URL(this.standIn.url).port);
    this.standIn = await startStandIn({ redis: this.redis, token: this.standIn.token, port });
  }

  async stop() {
    await this.standIn?.stop();
    await this.redis?.stop();
  }

  /** Sends one command to Redis directly, without the stand-in. */
  async command(...args) {
    const client = await this.redis.client();
    return client.sendCommand(args);
  }
}

/** REDIS_TIMEOUT for faults in which the limiter waits until it passes. */
const SHORT_MS = 1500;
/** REDIS_TIMEOUT for all other faults: long enough that a busy machine does not cause a time-out. */
const LONG_MS = 10_000;

const MALFORMED = "the answer has an unexpected form";
const UNREACHABLE = "Redis cannot be reached";
const LATE = "no answer within REDIS_TIMEOUT";

/** Redis writes every change to disk, so that a restart loses nothing. */
const PERSISTENT = ["--appendonly", "yes", "--appendfsync", "always"];

const injected = (fault) => ({
  fail: async ({ standIn }) => standIn.faults.set(fault),
  recover: async ({ standIn }) => standIn.faults.clear(),
});

/**
 * @typedef {object} Fault
 * @property {string} what the name of the fault, in the matrix and in the test
 * @property {string | null} why the reason that the log and health report; `null`: the limiter must not treat it as a failure
 * @property {(store: Store) => Promise<unknown>} fail causes the fault
 * @property {(store: Store) => Promise<unknown>} recover ends the fault
 * @property {number} timeout REDIS_TIMEOUT in ms
 * @property {boolean} mayRun whether Redis may count a decision whose answer is then lost
 * @property {boolean} provesNotRun whether the failure proves that the decision has not run
 * @property {number} probes how many probes fail before the fault ends
 * @property {boolean} permanent whether one failure opens the breaker for its longest wait
 * @property {boolean} forgets whether Redis loses its data
 * @property {number} calls HTTP requests for one decision
 * @property {string[]} redisArgs
 */
const DEFAULTS = { timeout: LONG_MS, mayRun: false, provesNotRun: false, probes: 2, permanent: false, forgets: false, calls: 1, redisArgs: [] };

/** @type {Fault[]} */
export const FAULTS = [
  { what: "connection refused", why: UNREACHABLE, mayRun: true, fail: (store) => store.close(), recover: (store) => store.open() },
  { what: "connection reset in the middle of the answer", why: UNREACHABLE, mayRun: true, ...injected({ kind: "truncated" }) },
  { what: "HTTP 429", provesNotRun: true, why: "HTTP 429: too many requests a second", ...injected({ kind: "status", status: 429, retryAfter: 60 }) },
  { what: "HTTP 500", why: "Redis answered with HTTP status 500", ...injected({ kind: "status", status: 500 }) },
  { what: "HTTP 502 with HTML", why: "Redis answered with HTTP status 502", ...injected({ kind: "html", status: 502 }) },
  { what: "HTTP 200, empty", why: MALFORMED, ...injected({ kind: "empty" }) },
  { what: "half of the JSON", why: MALFORMED, mayRun: true, ...injected({ kind: "cut" }) },
  { what: "a result of another type", why: MALFORMED, ...injected({ kind: "result", value: { a: 1 } }) },
  { what: `no answer (REDIS_TIMEOUT ${SHORT_MS})`, why: LATE, timeout: SHORT_MS, probes: 1, ...injected({ kind: "hang" }) },
  { what: `answers after ${2 * SHORT_MS} ms (REDIS_TIMEOUT ${SHORT_MS})`, why: LATE, timeout: SHORT_MS, probes: 1, mayRun: true, ...injected({ kind: "delay", ms: 2 * SHORT_MS }) },
  {
    what: "`NOSCRIPT` to `EVAL` as well", provesNotRun: true, why: "Redis refused the command: NOSCRIPT", calls: 2,
    ...injected({ kind: "status", status: 400, body: '{"error":"NOSCRIPT No matching script. Please use EVAL."}' }),
  },
  { what: "the plan is used up", provesNotRun: true, why: "the plan's command quota is used up; raise it or wait for the reset", permanent: true, probes: 1, ...injected({ kind: "quota" }) },
  { what: "the token is refused", provesNotRun: true, why: "the token or password was refused; check UPSTASH_REDIS_REST_TOKEN or REDIS_PASSWORD", permanent: true, probes: 1, ...injected({ kind: "unauthorized" }) },
  {
    what: "Redis killed and started again", why: "Redis answered with HTTP status 500", mayRun: true, redisArgs: PERSISTENT,
    fail: ({ redis }) => redis.kill(),
    recover: ({ redis }) => redis.start(),
  },
  {
    what: "Redis killed and started again, empty", why: "Redis answered with HTTP status 500", mayRun: true, forgets: true,
    fail: ({ redis }) => redis.kill(),
    recover: ({ redis }) => redis.start(),
  },
  {
    what: "Redis out of memory", provesNotRun: true, why: "Redis refused the command: OOM",
    fail: (store) => store.command("CONFIG", "SET", "maxmemory", "1"),
    recover: (store) => store.command("CONFIG", "SET", "maxmemory", "0"),
  },
  {
    // Nothing listens on port 1, so the replica keeps its data and waits for its master.
    what: "Redis a read-only replica", provesNotRun: true, why: "Redis refused the command: READONLY",
    fail: (store) => store.command("REPLICAOF", "127.0.0.1", "1"),
    recover: (store) => store.command("REPLICAOF", "NO", "ONE"),
  },
  // The limiter must not treat these as failures.
  { what: "answers after 100 ms, within the time allowed", why: null, ...injected({ kind: "delay", ms: 100 }) },
  { what: "`NOSCRIPT` for ever", why: null, calls: 2, ...injected({ kind: "noscript" }) },
].map((fault) => ({ ...DEFAULTS, ...fault }));

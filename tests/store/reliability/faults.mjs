/** What happens to the store in each row of the matrix, and what is to be seen of it. */

import { startRedis } from "../../upstash/redis-server.mjs";
import { startStandIn } from "../../upstash/stand-in.mjs";

/** A Redis and the stand-in before it, either of which can go away. */
export class Store {
  #earlier = 0;

  static async start({ redisArgs = [] } = {}) {
    const store = new Store();
    store.redis = await startRedis({ args: redisArgs });
    store.standIn = await startStandIn({ redis: store.redis });
    return store;
  }

  /** HTTP requests so far. */
  calls() {
    return this.#earlier + this.standIn.requests().count;
  }

  /** Commands of the last requests. */
  commands() {
    return this.standIn.requests().last.flatMap(({ commands }) => commands);
  }

  /** Nothing listens at its address any more. */
  async close() {
    await this.standIn.stop();
  }

  async open() {
    this.#earlier += this.standIn.requests().count;
    const port = Number(new URL(this.standIn.url).port);
    this.standIn = await startStandIn({ redis: this.redis, token: this.standIn.token, port });
  }

  async stop() {
    await this.standIn?.stop();
    await this.redis?.stop();
  }

  /** One command, past the stand-in. */
  async command(...args) {
    const client = await this.redis.client();
    return client.sendCommand(args);
  }
}

/** Where waiting matters it must be short; elsewhere no busy machine may look like a store that is late. */
const SHORT_MS = 1500;
const LONG_MS = 10_000;

const MALFORMED = "an answer that is not what the command answers";
const UNREACHABLE = "cannot be reached";
const LATE = "no answer within REDIS_TIMEOUT";

/** Kept on disk at every write, as a database is. */
const KEPT = ["--appendonly", "yes", "--appendfsync", "always"];

const injected = (fault) => ({
  fail: async ({ standIn }) => standIn.faults.set(fault),
  mend: async ({ standIn }) => standIn.faults.clear(),
});

/**
 * @typedef {object} Fault
 * @property {string} what
 * @property {string | null} why what the log and health say; `null`: it is no failure, and nothing is to be seen of it
 * @property {(store: Store) => Promise<unknown>} fail
 * @property {(store: Store) => Promise<unknown>} mend
 * @property {number} timeout REDIS_TIMEOUT
 * @property {boolean} mayRun whether Redis may count a decision whose answer is then lost
 * @property {boolean} clear whether the failure says that the decision has not run
 * @property {number} probes that fail before the fault is mended
 * @property {boolean} hopeless whether the breaker opens at once, for its longest wait
 * @property {boolean} forgets whether Redis loses what it had
 * @property {number} calls HTTP requests that one decision is
 * @property {string[]} redisArgs
 */
const DEFAULTS = { timeout: LONG_MS, mayRun: false, clear: false, probes: 2, hopeless: false, forgets: false, calls: 1, redisArgs: [] };

/** @type {Fault[]} */
export const FAULTS = [
  { what: "connection refused", why: UNREACHABLE, mayRun: true, fail: (store) => store.close(), mend: (store) => store.open() },
  { what: "connection reset in the middle of the answer", why: UNREACHABLE, mayRun: true, ...injected({ kind: "truncated" }) },
  { what: "HTTP 429", clear: true, why: "HTTP 429: too many requests a second", ...injected({ kind: "status", status: 429, retryAfter: 60 }) },
  { what: "HTTP 500", why: "HTTP status 500", ...injected({ kind: "status", status: 500 }) },
  { what: "HTTP 502 with HTML", why: "HTTP status 502", ...injected({ kind: "html", status: 502 }) },
  { what: "HTTP 200, empty", why: MALFORMED, ...injected({ kind: "empty" }) },
  { what: "half of the JSON", why: MALFORMED, mayRun: true, ...injected({ kind: "cut" }) },
  { what: "a result of another type", why: MALFORMED, ...injected({ kind: "result", value: { a: 1 } }) },
  { what: `no answer (REDIS_TIMEOUT ${SHORT_MS})`, why: LATE, timeout: SHORT_MS, probes: 1, ...injected({ kind: "hang" }) },
  { what: `answers after ${2 * SHORT_MS} ms (REDIS_TIMEOUT ${SHORT_MS})`, why: LATE, timeout: SHORT_MS, probes: 1, mayRun: true, ...injected({ kind: "delay", ms: 2 * SHORT_MS }) },
  {
    what: "`NOSCRIPT` to `EVAL` as well", clear: true, why: "Redis refused the command: NOSCRIPT", calls: 2,
    ...injected({ kind: "status", status: 400, body: '{"error":"NOSCRIPT No matching script. Please use EVAL."}' }),
  },
  { what: "the plan is used up", clear: true, why: "the plan's command quota is used up; raise it or wait for the reset", hopeless: true, probes: 1, ...injected({ kind: "quota" }) },
  { what: "the token is refused", clear: true, why: "the token or password was refused; check UPSTASH_REDIS_REST_TOKEN or REDIS_PASSWORD", hopeless: true, probes: 1, ...injected({ kind: "unauthorized" }) },
  {
    what: "Redis killed and started again", why: "HTTP status 500", mayRun: true, redisArgs: KEPT,
    fail: ({ redis }) => redis.kill(),
    mend: ({ redis }) => redis.start(),
  },
  {
    what: "Redis killed and started again, empty", why: "HTTP status 500", mayRun: true, forgets: true,
    fail: ({ redis }) => redis.kill(),
    mend: ({ redis }) => redis.start(),
  },
  {
    what: "Redis out of memory", clear: true, why: "Redis refused the command: OOM",
    fail: (store) => store.command("CONFIG", "SET", "maxmemory", "1"),
    mend: (store) => store.command("CONFIG", "SET", "maxmemory", "0"),
  },
  {
    // Port 1: nobody is there, so it keeps what it has and waits for its master.
    what: "Redis a read-only replica", clear: true, why: "Redis refused the command: READONLY",
    fail: (store) => store.command("REPLICAOF", "127.0.0.1", "1"),
    mend: (store) => store.command("REPLICAOF", "NO", "ONE"),
  },
  // No failures, nor to be taken for any.
  { what: "answers after 100 ms, within the time allowed", why: null, ...injected({ kind: "delay", ms: 100 }) },
  { what: "`NOSCRIPT` for ever", why: null, calls: 2, ...injected({ kind: "noscript" }) },
].map((fault) => ({ ...DEFAULTS, ...fault }));

/**
 * Steady load on one limiter. For each kind of policy there are callers that stay within their limit and one that goes far over it.
 * Every answer is recorded with the phase in which its request was sent and the phase in which it arrived.
 */

import { EventEmitter, once } from "node:events";
import { Agent } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { send } from "../../harness/request.mjs";
import { within } from "../../harness/within.mjs";

/** Each policy is named after its `on_store_failure`. */
export const POLICIES = ["memory", "allow", "deny"];

export const LIMIT = 80;
/** What one isolate admits while memory decides: the limit times the default of RATE_LIMIT_FALLBACK_FACTOR. */
export const FALLBACK_LIMIT = 96;

export const VARS = {
  RATE_LIMIT_IP: "off",
  ...Object.fromEntries(POLICIES.map((policy) => [`RATE_LIMIT_${policy.toUpperCase()}`, `${LIMIT},3600`])),
  RATE_LIMIT_POLICIES: { allow: { on_store_failure: "allow" }, deny: { on_store_failure: "deny" } },
  RATE_LIMIT_ROUTES: POLICIES.map((policy) => ({ path: `/${policy}`, policies: [policy] })),
};

/** How many requests the caller that goes over its limit sends before the fault: fewer than its limit, so that the fault begins halfway. */
export const HEAD_START = 50;

/** How many requests one caller has in flight, and how many milliseconds it waits after each answer. */
const WITHIN = { loops: 1, pauseMs: 80 };
const OVER = { loops: 4, pauseMs: 40 };

/** Callers that stay within their limit, for each policy. */
export const CALLERS_WITHIN = 2;

/** The most requests in flight at a time. */
export const IN_FLIGHT = POLICIES.length * (CALLERS_WITHIN * WITHIN.loops + OVER.loops);

/** Longer than any phase takes on a busy machine. */
const PHASE_TIMEOUT_MS = 60_000;

/**
 * @typedef {object} Answer
 * @property {string} from the phase in which the request was sent
 * @property {string} to the phase in which the answer arrived
 * @property {number} ms how long the answer took
 * @property {number} status
 * @property {string} [store] X-RateLimit-Store
 * @property {number} remaining X-RateLimit-Remaining
 * @property {string} [retryAfter]
 * @property {string} [error] `error` of the body
 */

export class Caller {
  /** @type {Answer[]} */
  answers = [];
  asked = 0;

  constructor(load, policy, address, maxRequests) {
    this.load = load;
    this.policy = policy;
    this.address = address;
    /** How many requests the caller may send. */
    this.maxRequests = maxRequests;
  }

  async ask() {
    this.asked += 1;
    const from = this.load.phase;
    const started = performance.now();
    const headers = { "CF-Connecting-IP": this.address };
    const answer = await send(this.load.url, { path: `/${this.policy}`, headers, agent: this.load.agent });
    this.answers.push({
      from, to: this.load.phase, ms: performance.now() - started,
      status: answer.status,
      store: answer.headers["x-ratelimit-store"],
      remaining: Number(answer.headers["x-ratelimit-remaining"]),
      retryAfter: answer.headers["retry-after"],
      error: answer.status === 200 ? undefined : answer.json().error,
    });
    this.load.events.emit("answer");
  }

  /** Counts the answers with this status that `matches` accepts. */
  count(status, matches = () => true) {
    return this.answers.filter((answer) => answer.status === status && matches(answer)).length;
  }
}

export class Load {
  events = new EventEmitter();
  /** The phase of the test: `before` the fault, `breaking`, `failing`, `recovering`, `after` the fault. */
  phase = "before";
  agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  #loops = [];
  #stopped = false;

  constructor(url) {
    this.url = url;
    // `LIMIT` keeps these callers within their limit, however long the test takes.
    this.within = POLICIES.flatMap((policy, p) =>
      Array.from({ length: CALLERS_WITHIN }, (_, i) => new Caller(this, policy, `198.18.${p}.${i + 1}`, LIMIT)));
    this.over = POLICIES.map((policy, p) => new Caller(this, policy, `198.18.${p}.99`, HEAD_START));
  }

  /** Returns the callers of a policy. */
  of(policy) {
    const named = (callers) => callers.filter((caller) => caller.policy === policy);
    return { within: named(this.within), over: named(this.over)[0] };
  }

  get callers() {
    return [...this.within, ...this.over];
  }

  start() {
    for (const caller of this.within) this.#run(caller, WITHIN);
    for (const caller of this.over) this.#run(caller, OVER);
  }

  #run(caller, { loops, pauseMs }) {
    const loop = async () => {
      while (!this.#stopped) {
        if (caller.asked < caller.maxRequests) await caller.ask();
        await delay(pauseMs);
      }
    };
    this.#loops.push(...Array.from({ length: loops }, loop));
  }

  /** Waits until the condition holds. It is checked after every answer. */
  async until(what, condition) {
    const stop = new AbortController();
    const holds = async () => {
      while (!condition()) await once(this.events, "answer", { signal: stop.signal });
    };
    // A caller's loop that fails ends the wait.
    const failed = Promise.race(this.#loops).then(() => {});
    await within(Promise.race([holds(), failed]), what, PHASE_TIMEOUT_MS).finally(() => stop.abort());
  }

  /** Waits until every request in flight has been answered. */
  async answered() {
    const asked = this.callers.map((caller) => caller.asked);
    await this.until("answers to the requests in flight", () => this.callers.every((caller, i) => caller.answers.length >= asked[i]));
  }

  async stop() {
    this.#stopped = true;
    await Promise.all(this.#loops).finally(() => this.agent.destroy());
  }
}

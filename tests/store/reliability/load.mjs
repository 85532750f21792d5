/**
 * Steady load on one limiter: callers that stay within their limit and one that is far over it, on a policy of each kind.
 * Every answer is written down, with what was going on when it was asked for and when it came.
 */

import { EventEmitter, once } from "node:events";
import { Agent } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { send } from "../../harness/request.mjs";
import { within } from "../../harness/within.mjs";

/** Each policy is named for what it does when the store fails. */
export const POLICIES = ["memory", "allow", "deny"];

export const LIMIT = 80;
/** What one isolate admits of it while memory decides: RATE_LIMIT_FALLBACK_FACTOR's default. */
export const WIDENED = 96;

export const VARS = {
  RATE_LIMIT_IP: "off",
  ...Object.fromEntries(POLICIES.map((policy) => [`RATE_LIMIT_${policy.toUpperCase()}`, `${LIMIT},3600`])),
  RATE_LIMIT_POLICIES: { allow: { on_store_failure: "allow" }, deny: { on_store_failure: "deny" } },
  RATE_LIMIT_ROUTES: POLICIES.map((policy) => ({ path: `/${policy}`, policies: [policy] })),
};

/** What the caller over its limit asks before the fault: not yet over it, so that the fault finds it halfway. */
export const HEAD_START = 50;

/** Requests of one caller that are in flight together, and what it waits between two. */
const WITHIN = { loops: 1, pause: 80 };
const OVER = { loops: 4, pause: 40 };

/** Callers of each kind, per policy. */
export const WITHINS = 2;

/** Requests that are in flight together at the most. */
export const IN_FLIGHT = POLICIES.length * (WITHINS * WITHIN.loops + OVER.loops);

/** Longer than any phase takes on a busy machine. */
const LONGEST_MS = 60_000;

/**
 * @typedef {object} Answer
 * @property {string} from the phase in which it was asked for
 * @property {string} to the phase in which it came
 * @property {number} ms how long it took
 * @property {number} status
 * @property {string} [store] X-RateLimit-Store
 * @property {number} remaining X-RateLimit-Remaining
 * @property {string} [retryAfter]
 * @property {string} [error] the body's
 */

export class Caller {
  /** @type {Answer[]} */
  answers = [];
  asked = 0;

  constructor(load, policy, address, most) {
    this.load = load;
    this.policy = policy;
    this.address = address;
    /** Requests that it may make. */
    this.most = most;
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

  /** How many answers there are of that status, of those that `which` picks. */
  count(status, which = () => true) {
    return this.answers.filter((answer) => answer.status === status && which(answer)).length;
  }
}

export class Load {
  events = new EventEmitter();
  /** What is going on: `before` the fault, `breaking`, `failing`, `mending`, `after` it. */
  phase = "before";
  agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  #loops = [];
  #stopped = false;

  constructor(url) {
    this.url = url;
    // It is within its limit however long the story takes.
    this.within = POLICIES.flatMap((policy, p) =>
      Array.from({ length: WITHINS }, (_, i) => new Caller(this, policy, `198.18.${p}.${i + 1}`, LIMIT)));
    this.over = POLICIES.map((policy, p) => new Caller(this, policy, `198.18.${p}.99`, HEAD_START));
  }

  /** Callers of that policy. */
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

  #run(caller, { loops, pause }) {
    const loop = async () => {
      while (!this.#stopped) {
        if (caller.asked < caller.most) await caller.ask();
        await delay(pause);
      }
    };
    this.#loops.push(...Array.from({ length: loops }, loop));
  }

  /** Waits until the condition holds, looking at every answer. */
  async until(what, condition) {
    const late = new AbortController();
    const holds = async () => {
      while (!condition()) await once(this.events, "answer", { signal: late.signal });
    };
    // A loop that fails ends the wait.
    const failed = Promise.race(this.#loops).then(() => {});
    await within(Promise.race([holds(), failed]), what, LONGEST_MS).finally(() => late.abort());
  }

  /** Waits until every answer is here that was being waited for. */
  async answered() {
    const asked = this.callers.map((caller) => caller.asked);
    await this.until("the answers under way", () => this.callers.every((caller, i) => caller.answers.length >= asked[i]));
  }

  async stop() {
    this.#stopped = true;
    await Promise.all(this.#loops).finally(() => this.agent.destroy());
  }
}

/** The criteria of a run. Each is kept with its result, so that a report shows those that hold and those that do not. */

import { isDeepStrictEqual } from "node:util";

/** The most that the p99 may be for callers that have to be served, on a machine that the load itself keeps busy. */
const MAX_P99_MS = 1000;

export class Criteria {
  /** @type {{what: string, found: unknown, wanted: string, holds: boolean}[]} */
  results = [];
  #run;
  #redis;

  constructor(run, redis) {
    this.#run = run;
    this.#redis = redis;
  }

  equal(what, found, wanted) {
    this.#add(what, found, JSON.stringify(wanted), isDeepStrictEqual(found, wanted));
  }

  atMost(what, found, most) {
    this.#add(what, found, `at most ${most}`, found <= most);
  }

  atLeast(what, found, least) {
    this.#add(what, found, `at least ${least}`, found >= least);
  }

  /** All requests with this name were admitted, and there was at least one. */
  allAdmitted(name) {
    this.atLeast(`${name}: requests`, this.#run.sent(name), 1);
    this.equal(`${name}: admitted (expected: all)`, this.#run.of(name, "admitted"), this.#run.sent(name));
  }

  /** All requests with this name were admitted and answered quickly, whatever the other load. */
  allServed(name) {
    this.allAdmitted(name);
    this.atMost(`${name}: p99 in ms`, this.#run.latency(name).p99, MAX_P99_MS);
  }

  /** One caller sent more requests than its limit, and was admitted exactly up to it, by the answers and by its state in Redis. */
  async heldTo(name, { limit, block }, { blocked, key }) {
    const sent = this.#run.sent(name);
    this.atLeast(`${name}: requests (expected: more than its limit)`, sent, limit + 1);
    this.equal(`${name}: admitted (expected: its limit)`, this.#run.of(name, "admitted"), limit);
    this.equal(`${name}: denied (expected: all others)`, this.#run.of(name, "denied"), sent - limit);
    this.equal(`${name}: denials that say that the caller is blocked`, this.#run.of(name, "blocked"), blocked ? sent - limit : 0);
    this.equal(`${name}: counted in Redis`, await this.#redis.consumed(key), limit);
    if (blocked) {
      const left = await this.#redis.secondsLeft(`${key}:blocked`);
      this.equal(`${name}: blocked in Redis for at most the policy's time`, left > 0 && left <= block, true);
    }
  }

  get broken() {
    return this.results.filter(({ holds }) => !holds);
  }

  #add(what, found, wanted, holds) {
    this.results.push({ what, found, wanted, holds });
  }
}

/** Criteria. Each is kept with what was found, so that a report shows what held as well as what did not. */

import { isDeepStrictEqual } from "node:util";

/** On a machine that the load itself keeps busy. */
const SOON_MS = 1000;

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

  /** Every request of that name, of which there were some. */
  allAdmitted(name) {
    this.atLeast(`${name}: requests`, this.#run.sent(name), 1);
    this.equal(`${name}: admitted, all`, this.#run.of(name, "admitted"), this.#run.sent(name));
  }

  /** All admitted, and soon, beside whatever else goes on. */
  allServed(name) {
    this.allAdmitted(name);
    this.atMost(`${name}: p99 in ms`, this.#run.latency(name).p99, SOON_MS);
  }

  /** One caller's requests, more than its limit: to the unit, by the answers and by what Redis holds. */
  async heldTo(name, { limit, block }, { blocked, key }) {
    const sent = this.#run.sent(name);
    this.atLeast(`${name}: requests, more than its limit`, sent, limit + 1);
    this.equal(`${name}: admitted, its limit`, this.#run.of(name, "admitted"), limit);
    this.equal(`${name}: denied, all others`, this.#run.of(name, "denied"), sent - limit);
    this.equal(`${name}: told that it is blocked`, this.#run.of(name, "blocked"), blocked ? sent - limit : 0);
    this.equal(`${name}: counted in Redis`, await this.#redis.consumed(key), limit);
    if (blocked) {
      const left = await this.#redis.secondsLeft(`${key}:blocked`);
      this.equal(`${name}: blocked in Redis, for no longer than the policy says`, left > 0 && left <= block, true);
    }
  }

  get broken() {
    return this.results.filter(({ holds }) => !holds);
  }

  #add(what, found, wanted, holds) {
    this.results.push({ what, found, wanted, holds });
  }
}

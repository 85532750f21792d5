/** Criteria. Each is kept with what was found, so that a report shows what held as well as what did not. */

import { isDeepStrictEqual } from "node:util";

/** On a machine that the load itself keeps busy. */
const SOON_MS = 1000;

export class Must {
  /** @type {{what: string, found: unknown, wanted: string, holds: boolean}[]} */
  criteria = [];
  #run;
  #redis;

  constructor(run, redis) {
    this.#run = run;
    this.#redis = redis;
  }

  be(what, found, wanted) {
    this.#add(what, found, JSON.stringify(wanted), isDeepStrictEqual(found, wanted));
  }

  beAtMost(what, found, most) {
    this.#add(what, found, `at most ${most}`, found <= most);
  }

  beAtLeast(what, found, least) {
    this.#add(what, found, `at least ${least}`, found >= least);
  }

  /** Every request of that name, of which there were some. */
  allBeAdmitted(name) {
    this.beAtLeast(`${name}: requests`, this.#run.sent(name), 1);
    this.be(`${name}: admitted, all`, this.#run.of(name, "admitted"), this.#run.sent(name));
  }

  /** All admitted, and soon, beside whatever else goes on. */
  allBeServed(name) {
    this.allBeAdmitted(name);
    this.beAtMost(`${name}: p99 in ms`, this.#run.latency(name).p99, SOON_MS);
  }

  /** One caller's requests, more than its limit: to the unit, by the answers and by what Redis holds. */
  async beHeldTo(name, { limit, block }, { blocked, key }) {
    const sent = this.#run.sent(name);
    this.beAtLeast(`${name}: requests, more than its limit`, sent, limit + 1);
    this.be(`${name}: admitted, its limit`, this.#run.of(name, "admitted"), limit);
    this.be(`${name}: denied, all others`, this.#run.of(name, "denied"), sent - limit);
    this.be(`${name}: told that it is blocked`, this.#run.of(name, "blocked"), blocked ? sent - limit : 0);
    this.be(`${name}: counted in Redis`, await this.#redis.consumed(key), limit);
    if (blocked) {
      const left = await this.#redis.secondsLeft(`${key}:blocked`);
      this.be(`${name}: blocked in Redis, for no longer than the policy says`, left > 0 && left <= block, true);
    }
  }

  get broken() {
    return this.criteria.filter(({ holds }) => !holds);
  }

  #add(what, found, wanted, holds) {
    this.criteria.push({ what, found, wanted, holds });
  }
}

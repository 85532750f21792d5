/** What Artillery's JSON report says, and with it what the hooks counted. */

const OUTCOMES = ["admitted", "denied", "refused", "failed"];

export class Tally {
  #counters;
  #summaries;

  /** @param {object} aggregate of Artillery's report */
  constructor({ counters, summaries, firstMetricAt, lastMetricAt }) {
    this.#counters = counters;
    this.#summaries = summaries;
    /** From the first thing that was counted to the last. */
    this.seconds = Math.max(0.001, ((lastMetricAt ?? 0) - (firstMetricAt ?? 0)) / 1000);
  }

  /** One tally of several runs; its latencies are those of the last, as percentiles do not add up. */
  static together(tallies) {
    const counters = {};
    for (const tally of tallies) {
      for (const [name, value] of Object.entries(tally.#counters)) counters[name] = (counters[name] ?? 0) + value;
    }
    const sum = new Tally({ counters, summaries: tallies.at(-1)?.#summaries ?? {} });
    sum.seconds = tallies.reduce((seconds, tally) => seconds + tally.seconds, 0);
    return sum;
  }

  /** Answers of that outcome to requests of that name. */
  of(name, outcome) {
    return this.#counters[`${name}.${outcome}`] ?? 0;
  }

  /** Requests of that name that came to an outcome. */
  sent(name) {
    return OUTCOMES.reduce((sum, outcome) => sum + this.of(name, outcome), 0);
  }

  /** The same outcome over all names. */
  all(outcome) {
    return this.names.reduce((sum, name) => sum + this.of(name, outcome), 0);
  }

  get names() {
    const named = Object.keys(this.#counters).map((counter) => /^([a-z0-9-]+)\.(?:admitted|denied|refused|failed)$/.exec(counter)?.[1]);
    return [...new Set(named.filter(Boolean))].sort();
  }

  get requests() {
    return this.#counters["http.requests"] ?? 0;
  }

  /** Requests without an answer, and virtual users that could not go on. */
  get errors() {
    return Object.entries(this.#counters).reduce((sum, [name, value]) => sum + (name.startsWith("errors.") ? value : 0), 0);
  }

  /** In milliseconds, to the first byte of the answer; of all requests, or of those of that name. */
  latency(name) {
    const of = name ? `${name}.latency` : "http.response_time";
    const { p50, p95, p99 } = this.#summaries[of] ?? {};
    return { p50, p95, p99 };
  }

  get counters() {
    return { ...this.#counters };
  }
}

/** Reads Artillery's JSON report, including the counters of the hooks. */

const OUTCOMES = ["admitted", "denied", "refused", "failed"];

export class Tally {
  #counters;
  #summaries;

  /** @param {object} aggregate `aggregate` of Artillery's report */
  constructor({ counters, summaries, firstMetricAt, lastMetricAt }) {
    this.#counters = counters;
    this.#summaries = summaries;
    /** The time from the first counted event to the last. */
    this.seconds = Math.max(0.001, ((lastMetricAt ?? 0) - (firstMetricAt ?? 0)) / 1000);
  }

  /** Adds up several runs. The latencies are those of the last run, because percentiles do not add up. */
  static sum(tallies) {
    const counters = {};
    for (const tally of tallies) {
      for (const [name, value] of Object.entries(tally.#counters)) counters[name] = (counters[name] ?? 0) + value;
    }
    const sum = new Tally({ counters, summaries: tallies.at(-1)?.#summaries ?? {} });
    sum.seconds = tallies.reduce((seconds, tally) => seconds + tally.seconds, 0);
    return sum;
  }

  /** Counts the requests with this name and outcome. */
  of(name, outcome) {
    return this.#counters[`${name}.${outcome}`] ?? 0;
  }

  /** Counts the requests with this name that have an outcome. */
  sent(name) {
    return OUTCOMES.reduce((sum, outcome) => sum + this.of(name, outcome), 0);
  }

  /** Counts the requests with this outcome over all names. */
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

  /** Requests without an answer, and virtual users that failed. */
  get errors() {
    return Object.entries(this.#counters).reduce((sum, [name, value]) => sum + (name.startsWith("errors.") ? value : 0), 0);
  }

  /** Returns percentiles of the time to the first byte in ms, over all requests or over those with this name. */
  latency(name) {
    const summary = name ? `${name}.latency` : "http.response_time";
    const { p50, p95, p99 } = this.#summaries[summary] ?? {};
    return { p50, p95, p99 };
  }

  get counters() {
    return { ...this.#counters };
  }
}

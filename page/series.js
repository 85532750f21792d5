/** Adds up the counts of `GET /_limiter/series`. */

/**
 * Splits a series into the window that is shown and the one before it, and into steps.
 *
 * @param {{step_ms: number, from: number, to: number, buckets: object[]}} series covers both windows
 */
export function windows({ step_ms: stepMs, from, to, buckets }) {
  const middle = from + (to - from) / 2;
  const steps = Math.max(1, Math.round((to - middle) / stepMs));
  const times = Array.from({ length: steps }, (_, at) => middle + at * stepMs);
  const place = ({ at }) => Math.min(steps - 1, Math.floor((at - middle) / stepMs));
  const shown = buckets.filter(({ at }) => at >= middle);
  const before = buckets.filter(({ at }) => at < middle);
  return {
    stepMs, times, shown, before,
    /** The value of each step. `of` reads the value from a bucket. */
    steps(of) {
      const values = times.map(() => 0);
      for (const bucket of shown) values[place(bucket)] += of(bucket) ?? 0;
      return values;
    },
  };
}

export const add = (buckets, of) => buckets.reduce((sum, bucket) => sum + (of(bucket) ?? 0), 0);

export const requests = (bucket) => Object.values(bucket.requests ?? {}).reduce((sum, number) => sum + number, 0);

/** The share of decisions that needed no call of Redis; `NaN` if there were no decisions. */
export function shareWithoutRedis(buckets) {
  const of = (source) => add(buckets, (bucket) => bucket.sources?.[source]);
  const without = of("memory") + of("lease") + of("remembered");
  return without / (without + of("store"));
}

/** The names of the policies with decisions, the most frequent first. */
export function policiesIn(buckets) {
  const totals = new Map();
  for (const { policies = {} } of buckets) {
    for (const [name, outcomes] of Object.entries(policies)) {
      const sum = Object.values(outcomes).reduce((total, number) => total + number, 0);
      totals.set(name, (totals.get(name) ?? 0) + sum);
    }
  }
  return [...totals].sort(([, a], [, b]) => b - a).map(([name]) => name);
}

/**
 * In how many windows a caller used more than 0, 10, 20 … 90 % of a policy's limit; `undefined` if none was counted.
 *
 * @returns {number[] | undefined}
 */
export function usageOf(buckets, policy) {
  const sums = Array.from({ length: 10 }, () => 0);
  for (const bucket of buckets) bucket.usage?.[policy]?.forEach((number, at) => (sums[at] += number));
  return sums[0] > 0 ? sums : undefined;
}

export const WINDOWS = [["hour", "Hour"], ["day", "Day"], ["month", "Month"]];

/** The length of each window. */
export const WINDOW_MS = { hour: 3_600_000, day: 86_400_000, month: 30 * 86_400_000 };

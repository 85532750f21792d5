/** Medians and spreads. */

/** The value below which `share` of the sorted values lie. Between two values it is interpolated linearly. */
export function quantile(sorted, share) {
  if (sorted.length === 0) throw new RangeError("a quantile needs at least one value");
  const place = (sorted.length - 1) * share;
  const low = Math.floor(place);
  return sorted[low] + (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]) * (place - low);
}

/** Median and quartiles. */
export function spread(values) {
  const sorted = Float64Array.from(values).sort();
  return { median: quantile(sorted, 0.5), low: quantile(sorted, 0.25), high: quantile(sorted, 0.75) };
}

export const median = (values) => spread(values).median;

/** A copy of a list in random order. */
export function shuffled(list) {
  return list.map((item) => [Math.random(), item]).sort(([a], [b]) => a - b).map(([, item]) => item);
}

/** Finds out from measured numbers how a cost grows. */

/** From the slowest growth to the fastest. */
export const SHAPES = ["flat", "logarithmic", "linear", "worse than linear"];

/** If the last cost is less than this times the smallest, there is no growth: two measurements of the same differ by as much. */
const MIN_GROWTH = 1.5;

/** If the last points rise with at least this exponent of a power law (that of a square root), the growth is not logarithmic. */
const MIN_LINEAR_EXPONENT = 0.5;
/** If they rise with a larger exponent than this, the growth is worse than linear. */
const MAX_LINEAR_EXPONENT = 1.25;

/**
 * @param {{size: number, cost: number}[]} points at least three, by ascending size
 * @returns {{shape: string, growth: number, sizes: number}} `growth`: the last cost divided by the first; `sizes`: the same for the sizes
 */
export function shapeOf(points) {
  if (points.length < 3) throw new Error("a shape needs at least three points");
  const [first, last] = [points[0], points.at(-1)];
  const costs = points.map(({ cost }) => cost);
  if (!costs.every((cost) => cost > 0)) throw new Error("a cost is not positive: nothing was measured");
  const result = (shape) => ({ shape, growth: last.cost / first.cost, sizes: last.size / first.size });
  // Compared with the smallest cost, because another program may have made the first one expensive. A falling cost is flat.
  if (last.cost / Math.min(...costs) < MIN_GROWTH) return result("flat");

  const exponent = exponentOf(points);
  if (exponent > MAX_LINEAR_EXPONENT) return result("worse than linear");
  const [line, logarithm] = [misfit(points, (size) => size), misfit(points, Math.log)];
  const isLine = exponent >= MIN_LINEAR_EXPONENT || (line < 0.1 && line < logarithm / 2);
  return result(isLine ? "linear" : "logarithmic");
}

/** The exponent of the power law that fits the last points best: those with at least a tenth of the largest size. */
function exponentOf(points) {
  const last = points.at(-1).size;
  // Slightly less than a tenth, so that a rounding error does not exclude a point at exactly a tenth.
  const end = points.filter(({ size }, i) => size >= 0.0999 * last || i >= points.length - 2);
  const logs = end.map(({ size, cost }) => [Math.log(size), Math.log(cost)]);
  const mean = (place) => logs.reduce((sum, pair) => sum + pair[place], 0) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  const sum = (f) => logs.reduce((total, pair) => total + f(pair), 0);
  return sum(([a, b]) => (a - x) * (b - y)) / sum(([a]) => (a - x) ** 2);
}

/** How far the best fit of `a + b x f(size)` is from the costs: the root of the mean squared relative error. */
function misfit(points, f) {
  // Least squares, where each error is divided by the cost so that cheap points count as much as expensive ones.
  let [w, x, y, xx, xy] = [0, 0, 0, 0, 0];
  for (const { size, cost } of points) {
    const [weight, value] = [1 / cost ** 2, f(size)];
    w += weight;
    x += weight * value;
    y += weight * cost;
    xx += weight * value ** 2;
    xy += weight * value * cost;
  }
  const b = (w * xy - x * y) / (w * xx - x * x);
  const a = (y - b * x) / w;
  const squares = points.map(({ size, cost }) => ((a + b * f(size) - cost) / cost) ** 2);
  return Math.sqrt(squares.reduce((sum, square) => sum + square) / points.length);
}

/** A shape in words, and whether it is within the allowed shape. */
export function inWords({ shape, growth, sizes }, what, allowed) {
  const times = (number) => `${number >= 100 ? Math.round(number).toLocaleString("en") : number.toPrecision(2)} times`;
  const within = SHAPES.indexOf(shape) <= SHAPES.indexOf(allowed);
  const target = allowed === "flat" ? "flat" : `no worse than ${allowed}`;
  const verdict = within ? `within the target, ${target}` : `**misses the target**, ${target}`;
  return `${shape}, ${times(growth)} the cost for ${times(sizes)} the ${what}: ${verdict}`;
}

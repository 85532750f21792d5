/** How a cost grows, said from measured numbers alone. */

/** From the mildest to the worst. */
export const SHAPES = ["flat", "logarithmic", "linear", "worse than linear"];

/** Less than this from the least to the last is no growth: measuring twice differs by as much. */
const NO_GROWTH = 1.5;

/** The exponent of a power law from which a rise at the end is no logarithm's; that of a square root. */
const STEEP = 0.5;
/** And from which it is more than proportional. */
const STEEPER = 1.25;

/**
 * @param {{size: number, cost: number}[]} points by ascending size, at least three
 * @returns {{shape: string, growth: number, sizes: number}} `growth`: the last cost by the first; `sizes`: the same of the sizes
 */
export function shapeOf(points) {
  if (points.length < 3) throw new Error("a shape takes at least three points");
  const [first, last] = [points[0], points.at(-1)];
  const costs = points.map(({ cost }) => cost);
  if (!costs.every((cost) => cost > 0)) throw new Error("a cost is not positive: nothing was measured");
  const result = (shape) => ({ shape, growth: last.cost / first.cost, sizes: last.size / first.size });
  // By the least and not by the first, which another program may have made dear. Falling is no growth.
  if (last.cost / Math.min(...costs) < NO_GROWTH) return result("flat");

  const exponent = rise(points);
  if (exponent > STEEPER) return result("worse than linear");
  const [line, logarithm] = [misfit(points, (size) => size), misfit(points, Math.log)];
  const isLine = exponent >= STEEP || (line < 0.1 && line < logarithm / 2);
  return result(isLine ? "linear" : "logarithmic");
}

/** The exponent of the power law that fits the last points best: those of a tenth of its size and more. */
function rise(points) {
  const last = points.at(-1).size;
  // A rounding error must not leave the tenth itself out.
  const end = points.filter(({ size }, i) => size >= 0.0999 * last || i >= points.length - 2);
  const logs = end.map(({ size, cost }) => [Math.log(size), Math.log(cost)]);
  const mean = (place) => logs.reduce((sum, pair) => sum + pair[place], 0) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  const sum = (f) => logs.reduce((total, pair) => total + f(pair), 0);
  return sum(([a, b]) => (a - x) * (b - y)) / sum(([a]) => (a - x) ** 2);
}

/** How far the best `a + b x f(size)` is from the costs: the root of the mean squared relative error. */
function misfit(points, f) {
  // Least squares with each point's weight 1 / cost, so that the cheap ones count as much.
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

/** In words, with whether it is within what is allowed. */
export function inWords({ shape, growth, sizes }, what, allowed) {
  const times = (number) => `${number >= 100 ? Math.round(number).toLocaleString("en") : number.toPrecision(2)} times`;
  const within = SHAPES.indexOf(shape) <= SHAPES.indexOf(allowed);
  const target = allowed === "flat" ? "flat" : `no worse than ${allowed}`;
  const verdict = within ? `within the target, ${target}` : `**misses the target**, ${target}`;
  return `${shape}, ${times(growth)} the cost for ${times(sizes)} the ${what}: ${verdict}`;
}

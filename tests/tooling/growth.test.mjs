/** The measurement of growth, at sizes too small to mean anything: what it counts, and how it describes numbers in words. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { measureRedis } from "../../bench/growth.mjs";
import { startScript } from "../../bench/script.mjs";
import { inWords, shapeOf } from "../../bench/shape.mjs";

const DECADES = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000];
const points = (sizes, cost) => sizes.map((size, i) => ({ size, cost: cost(size, i) }));
/** Adds the noise of a busy machine: up to 15 % in either direction, the same each time. */
const noisy = (cost) => (size, i) => cost(size) * (1 + 0.15 * Math.sin(5 * i + size));

describe("the shape of growth", () => {
  const cases = [
    ["constant cost", DECADES, () => 7, "flat"],
    ["falling cost", DECADES, (size) => 9 - Math.log10(size), "flat"],
    ["linear cost after an expensive start", DECADES, (size) => (size === 1 ? 60 : 5 + size / 20_000), "linear"],
    ["a binary search", DECADES, (size) => 3 + Math.log2(size), "logarithmic"],
    ["a table that outgrows a cache", DECADES, (size) => (size < 5000 ? 800 : 3500), "logarithmic"],
    ["a scan", [1, 10, 100, 1000], (size) => 200 + 43 * size, "linear"],
    ["a scan that is cheap compared with the rest", [1, 10, 100, 1000], (size) => 1000 + size, "linear"],
    ["sub-windows", [1, 15, 30, 60], (size) => 50 + 1.5 * size, "linear"],
    ["policies", [1, 2, 3, 4, 5, 6, 7, 8], (size) => 2 + size, "linear"],
    ["policies on a busy machine", [1, 2, 3, 4, 5, 6, 7, 8], (size) => [0, 31, 54, 74, 99, 111, 136, 168, 253][size], "linear"],
    ["sorting", DECADES, (size) => 5 + size * Math.log2(size + 1), "linear"],
    ["pairs", [1, 10, 100, 1000], (size) => 50 + size ** 2, "worse than linear"],
    ["a few pairs", [1, 2, 4, 8], (size) => size ** 2, "worse than linear"],
  ];
  for (const [what, sizes, cost, shape] of cases) {
    it(`"${what}" is recognised as ${shape}`, () => {
      assert.equal(shapeOf(points(sizes, cost)).shape, shape);
    });
  }

  it("is recognised on a busy machine if the growth is strong", () => {
    for (const [what, sizes, cost, shape] of cases.filter(([what]) => !["a scan that is cheap compared with the rest", "sub-windows", "policies", "policies on a busy machine", "linear cost after an expensive start"].includes(what))) {
      assert.equal(shapeOf(points(sizes, noisy(cost))).shape, shape, what);
    }
  });

  it("needs three points and costs above zero", () => {
    assert.throws(() => shapeOf(points([1, 10], () => 1)), /three points/);
    assert.throws(() => shapeOf(points([1, 10, 100], () => 0)), /nothing was measured/);
  });

  it("is described in words, with its target", () => {
    const scan = shapeOf(points([1, 10, 100, 1000], (size) => 200 + 43 * size));
    assert.equal(inWords(scan, "routes", "logarithmic"), "linear, 178 times the cost for 1,000 times the routes: **misses the target**, no worse than logarithmic");
    assert.match(inWords(scan, "routes", "linear"), /: within the target, no worse than linear$/);
  });
});

describe("growth in Redis", () => {
  let script;
  before(async () => {
    script = await startScript();
  });
  after(() => script?.stop());

  it("counts the commands that a decision is billed, at every size", async () => {
    const sizes = { redis: [1, 10, 300], policies: [1, 2, 8], subWindows: [1, 15, 60], decisions: 40, stretches: 2, passes: 1 };
    const { callers, policies, subWindows } = await measureRedis(script, sizes, () => {});
    const of = (rows, field) => rows.map((row) => row[field]);
    assert.deepEqual(of(callers, "size"), [1, 10, 300]);
    assert.deepEqual(of(callers, "commands"), [3, 3, 3]);
    assert.deepEqual(of(policies, "commands"), [3, 4, 10]);
    assert.deepEqual(of(subWindows, "commands"), [3, 3, 3]);
    // The state is `sw:60000:<13 digits>:<8 digits>:` and one item for each sub-window.
    const items = (count) => Array.from({ length: count }, (_, i) => `${i}=1`).join(",").length;
    assert.deepEqual(of(subWindows, "bytes"), [1, 15, 60].map((count) => 32 + items(count)));
    for (const row of [...callers, ...policies, ...subWindows]) {
      assert.ok(row.cpu > 0, JSON.stringify(row));
    }
  });
});

/**
 * Runs `npm run bench -- node` and `redis` with too few requests for meaningful times. They have to measure every contestant and check
 * its answers.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { project, root, run } from "./scratch.mjs";

describe("npm run bench", { skip: process.platform !== "linux" && "reads /proc" }, () => {
  it("the bench measures the package and its peers in Node", async (t) => {
    const json = path.join(await project(t, {}), "figures.json");
    const printed = await run(process.execPath, ["scripts/bench.mjs", "node", "--rounds", "1", "--requests", "20", "--json", json], { cwd: root });
    const peers = ["express-rate-limit", "rate-limiter-flexible", "edge-limiter"];
    const { admitted, denied, decided } = JSON.parse(readFileSync(json, "utf8")).node;
    assert.deepEqual([admitted, denied, decided].map(Object.keys), [["bare", ...peers], peers, peers]);
    for (const samples of [admitted, denied, decided]) {
      for (const [{ cpu, rate }] of Object.values(samples)) assert.ok(cpu > 0 && rate > 0, printed);
    }
    assert.match(printed, /The target is less CPU than either/);
  });

  it("the bench measures the package and its peer over Redis", async (t) => {
    const json = path.join(await project(t, {}), "figures.json");
    const printed = await run(process.execPath, ["scripts/bench.mjs", "redis", "--rounds", "1", "--requests", "20", "--json", json], { cwd: root });
    const { redis } = JSON.parse(readFileSync(json, "utf8"));
    assert.deepEqual(Object.keys(redis), ["rate-limiter-flexible", "edge-limiter", "edge-limiter, fixed window", "edge-limiter by the application's client"]);
    for (const [{ cpu, rate, sent }] of Object.values(redis)) assert.ok(cpu > 0 && rate > 0 && sent === 1, printed);
  });
});

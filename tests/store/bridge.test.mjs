/**
 * A Redis of one's own behind a bridge that hands scripts on as they are: stock Redis refuses their flag.
 */

import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import { ADMIN_TOKEN, blocked, eventually, good, has, isBlocked } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { ask, startShared } from "../harness/limited.mjs";

let shared;
before(async () => {
  shared = await startShared({ scripts: { unchanged: true } });
});
after(() => shared?.stop());

it("a Redis that refuses the flag decides, shares limits and blocks, at one call a decision", async () => {
  const vars = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `4,${HOUR_S}`, RATE_LIMIT_IP: "off" };
  const [one, other] = [await shared.limiter(vars), await shared.limiter(vars)];
  has(await good(one, "GET", "health"), { status: "ok", store: "upstash", script: "flagged" });
  const costs = [];
  for (const limiter of [one, one, other, other, one]) costs.push(await shared.costOf(limiter));
  // Once for each isolate: the script by name and in full; without the flag by name, and in full where Redis has not got it yet.
  assert.deepEqual(costs, ["200 6 4", "200 3 1", "200 5 3", "200 3 1", "429 2 1"]);
  for (const limiter of [one, other]) has(await good(limiter, "GET", "health"), { status: "ok", store: "upstash", breaker: "closed", script: "plain" });
  await one.logged(/Redis refuses the script's flag allow-key-locking/);

  // Blocks change by another script.
  for (const target of ["198.51.100.1", "203.0.113.0/24"]) await good(one, "PUT", blocked(target), { json: { seconds: 600 } });
  await isBlocked(one, "203.0.113.9", 600);
  await eventually(async () => assert.equal(await ask(other, "203.0.113.9"), 429));
  has(await good(other, "DELETE", blocked("198.51.100.1")), { lifted: true });
  assert.equal(await ask(one, CALLER), 429);
});

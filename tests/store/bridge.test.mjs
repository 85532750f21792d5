/**
 * A self-hosted Redis behind a bridge that passes scripts on unchanged. Stock Redis refuses the scripts' flag.
 */

import assert from "node:assert/strict";
import { after, before, it } from "node:test";
import { ADMIN_TOKEN, RECORDED_MS, blocked, eventually, good, has, isBlocked, usage } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { ask, startShared } from "../harness/limited.mjs";

let shared;
before(async () => {
  shared = await startShared({ scripts: { unchanged: true } });
});
after(() => shared?.stop());

it("a Redis that refuses the scripts' flag shares limits and blocks, at one call a decision", async () => {
  const vars = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `4,${HOUR_S}`, RATE_LIMIT_IP: "off" };
  const [one, other] = [await shared.limiter(vars), await shared.limiter(vars)];
  has(await good(one, "GET", "health"), { status: "ok", store: "upstash", script: "flagged" });
  const costs = [];
  for (const limiter of [one, one, other, other, one]) costs.push(await shared.costOf(limiter));
  // Each isolate first tries the flagged script, by EVALSHA and by EVAL. Then it sends the script without the flag by EVALSHA, and by
  // EVAL if Redis does not have it yet.
  assert.deepEqual(costs, ["200 6 4", "200 3 1", "200 5 3", "200 3 1", "429 2 1"]);
  for (const limiter of [one, other]) has(await good(limiter, "GET", "health"), { status: "ok", store: "upstash", breaker: "closed", script: "plain" });
  await one.logged(/Redis refuses the script's flag allow-key-locking/);

  // Another script changes blocks.
  for (const target of ["198.51.100.1", "203.0.113.0/24"]) await good(one, "PUT", blocked(target), { json: { seconds: 600 } });
  await isBlocked(one, "203.0.113.9", 600);
  await eventually(async () => assert.equal(await ask(other, "203.0.113.9"), 429));
  has(await good(other, "DELETE", blocked("198.51.100.1")), { lifted: true });
  assert.equal(await ask(one, CALLER), 429);
});

it("the control plane and the records are exact behind serverless-redis-http while decisions use its connections", async (t) => {
  const bridge = await startShared({ bridge: true });
  t.after(() => bridge.stop());
  const { url, token } = bridge.standIn;
  // The bridge opens its connections on the first request, which fails.
  assert.equal((await fetch(url, { method: "POST", headers: { Authorization: `Bearer ${token}` }, body: '["PING"]' })).status, 500);
  const vars = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1000000,${HOUR_S}`, RATE_LIMIT_STRICT: `1,${HOUR_S}`, RATE_LIMIT_ROUTES: [{ path: "/strict", policies: ["strict"] }], RATE_LIMIT_IP: "off" };
  const [one, other] = [await bridge.limiter(vars), await bridge.limiter(vars)];
  const ROUNDS = 10;
  let admitted = 0;
  let isOver = false;
  const traffic = [one, other, one, other].map(async (limiter) => {
    while (!isOver) {
      assert.equal(await ask(limiter, CALLER), 200);
      admitted++;
    }
  });
  const operators = (async () => {
    for (let round = 0; round < ROUNDS; round++) {
      for (const target of [`198.51.100.${round}`, `10.${round}.0.0/16`]) {
        await good(one, "PUT", blocked(target), { json: { reason: "test" } });
        has(await good(other, "GET", blocked(target)), { blocked: true });
        if (round % 2 === 1) has(await good(other, "DELETE", blocked(target)), { lifted: true });
      }
      const strict = `203.0.113.${round}`;
      for (const status of [200, 429, 429]) assert.equal(await ask(one, strict, "/strict"), status);
      await good(other, "GET", "events?limit=10");
      assert.equal((await good(one, "GET", "blocked?limit=100")).blocked.length, 2 * (Math.floor(round / 2) + 1));
    }
    await eventually(async () => {
      const { events } = await good(other, "GET", "events?limit=1000");
      const denials = events.filter(({ policy }) => policy === "strict");
      assert.equal(denials.reduce((sum, { count }) => sum + count, 0), 2 * ROUNDS, "each denial should be recorded once");
    }, RECORDED_MS);
  })().finally(() => (isOver = true));
  await Promise.all([operators, ...traffic]);
  has(await good(one, "GET", usage("general", CALLER)), { used: admitted });
  for (const limiter of [one, other]) has(await good(limiter, "GET", "health"), { status: "ok", breaker: "closed" });
});

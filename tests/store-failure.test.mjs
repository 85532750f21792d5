/**
 * A store that fails: memory decides those requests, limits hold, nobody is turned away for it, and the store is back in
 * use as soon as it answers. Each fault on a real Redis behind the stand-in.
 */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ask, startShared } from "./harness/limited.mjs";
import { send } from "./harness/request.mjs";

const HOUR = 3600;
const LIMIT = 4;
const CALLER = "192.0.2.77";

const FAULTS = [
  { kind: "hang" },
  { kind: "hang", after: true },
  { kind: "reset" },
  { kind: "truncated" },
  { kind: "cut" },
  { kind: "status", status: 429 },
  { kind: "status", status: 500 },
  { kind: "html", status: 502 },
  { kind: "html", status: 200 },
  { kind: "empty", status: 200 },
  { kind: "result", value: null },
  { kind: "result", value: { a: 1 } },
  { kind: "result", value: "garbage" },
  { kind: "result", value: [] },
  { kind: "result", value: [null, null, [1, -1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0]] },
  { kind: "quota" },
  { kind: "unauthorized" },
];

describe("a store that fails", () => {
  let shared, limiter;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(async () => {
    await shared.reset();
    limiter = await shared.limiter({
      REDIS_TIMEOUT: 250,
      ADMIN_TOKEN: "an-admin-token-for-tests",
      RATE_LIMIT_GENERAL: `${LIMIT},${HOUR}`,
    });
    assert.equal(await ask(limiter, "192.0.2.250"), 200);
  });

  const health = async () => (await send(limiter.url, { path: "/_limiter/health" })).json();

  /** While the store fails: as many as the limit, then 429, and nothing else. */
  async function memoryDecides() {
    const statuses = [];
    for (let i = 0; i < LIMIT + 2; i++) statuses.push(await ask(limiter, CALLER));
    assert.deepEqual(statuses, [...Array(LIMIT).fill(200), 429, 429]);
    const { status, store } = await health();
    assert.deepEqual({ status, store }, { status: "degraded", store: "memory" });
  }

  /** And when it is well again. */
  async function storeDecides() {
    const { standIn } = shared;
    const before = standIn.requests().count;
    assert.equal(await ask(limiter, "192.0.2.251"), 200);
    assert.ok(standIn.requests().count > before);
    const { status, store } = await health();
    assert.deepEqual({ status, store }, { status: "ok", store: "upstash" });
    await limiter.logged(/Upstash answers again/);
    const logs = limiter.logs();
    assert.equal(logs.match(/memory decides meanwhile/g).length, 1, "told once");
    assert.equal(logs.match(/Upstash answers again/g).length, 1);
    for (const secret of [standIn.token, CALLER, "192.0.2.25", "EVALSHA"]) assert.ok(!logs.includes(secret), secret);
  }

  for (const fault of FAULTS) {
    it(`${JSON.stringify(fault)}: memory decides, each decision is sent once, and the store is used again`, async () => {
      const { standIn } = shared;
      const before = standIn.requests().count;
      standIn.faults.set(fault);
      await memoryDecides();
      assert.equal(standIn.requests().count - before, LIMIT + 2, "one call for each decision");
      standIn.faults.clear();
      await storeDecides();
    });
  }

  it("EVALSHA that is unknown for ever: EVAL decides", async () => {
    shared.standIn.faults.set({ kind: "noscript" });
    const statuses = [];
    for (let i = 0; i < LIMIT + 2; i++) statuses.push(await ask(limiter, CALLER));
    assert.deepEqual(statuses, [...Array(LIMIT).fill(200), 429, 429]);
    assert.equal((await health()).store, "upstash");
  });

  it("Redis killed and started again", async () => {
    const { redis } = shared.standIn;
    await redis.kill();
    await memoryDecides();
    await redis.start();
    await storeDecides();
  });

  it("nobody listens at the URL", async () => {
    await limiter.stop();
    limiter = await shared.limiter({ UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1", RATE_LIMIT_GENERAL: `${LIMIT},${HOUR}` });
    await memoryDecides();
  });
});

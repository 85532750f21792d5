/**
 * A flood of requests. Its cost at the store and the isolate's memory stay bounded, and it does not make the isolate forget who is
 * denied.
 */

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { setTimeout } from "node:timers/promises";
import { ADMIN_TOKEN, eventually, good } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { INSIDE, advanceClock, callers, memoryOf } from "../harness/inside.mjs";
import { ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const FLOOD = 20_000;
const IN_FLIGHT = 50;

/** How long an isolate repeats a denial without asking the store, at most. */
const MAX_REMEMBERED_MS = 10_000;

describe("the cost of a flood at the store", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  /** Sends requests, `IN_FLIGHT` at a time. Returns the counts by status, the commands billed and the time taken. */
  async function flood(limiter, callerOf, requests = FLOOD) {
    const agent = new Agent({ keepAlive: true, maxSockets: IN_FLIGHT });
    const [billed, started] = [await shared.standIn.billed(), performance.now()];
    const statuses = {};
    let sent = 0;
    await Promise.all(Array.from({ length: IN_FLIGHT }, async () => {
      while (sent < requests) {
        const status = await ask(limiter, callerOf(sent++), "/", agent);
        statuses[status] = (statuses[status] ?? 0) + 1;
      }
    }));
    agent.destroy();
    return { statuses, billed: (await shared.standIn.billed()) - billed, seconds: (performance.now() - started) / 1000 };
  }

  /** Sends requests one after another and counts those that are admitted. The others must be denied. */
  async function admitted(limiter, caller, requests, path) {
    let count = 0;
    for (let request = 0; request < requests; request++) {
      const status = await ask(limiter, caller, path);
      assert.ok(status === 200 || status === 429, `${status}`);
      if (status === 200) count++;
    }
    return count;
  }

  it(`${FLOOD} requests of a denied caller cost fewer than 250 commands`, async (t) => {
    const limiter = await shared.warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S}` }, { modules: INSIDE });
    await ask(limiter, CALLER);
    let [billed, seconds] = [0, 0];
    // The denial expires between the four parts. Otherwise a fast machine would finish before the isolate asks again.
    for (let part = 0; part < 4; part++) {
      const cost = await flood(limiter, () => CALLER, FLOOD / 4);
      assert.deepEqual(cost.statuses, { 429: FLOOD / 4 });
      assert.ok(cost.billed >= 2, "the isolate should ask the store once the denial has expired");
      billed += cost.billed;
      seconds += cost.seconds;
      await advanceClock(limiter, MAX_REMEMBERED_MS);
    }
    t.diagnostic(`${billed} commands in ${seconds.toFixed(1)} s`);
    assert.ok(billed < 250, `${billed} commands were billed`);
  });

  it(`${IN_FLIGHT} concurrent requests of a caller whose remembered denial has expired cost one call`, async () => {
    const { standIn } = shared;
    const limiter = await shared.warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S}` }, { modules: INSIDE });
    for (const status of [200, 429, 429]) assert.equal(await ask(limiter, CALLER), status);
    await advanceClock(limiter, MAX_REMEMBERED_MS);
    const [billed, { count }] = [await standIn.billed(), standIn.requests()];
    // Long enough that all requests arrive while the first waits for the store.
    standIn.faults.set({ kind: "delay", ms: 500 });
    const statuses = await Promise.all(Array.from({ length: IN_FLIGHT }, () => ask(limiter, CALLER)));
    assert.deepEqual(statuses, Array(IN_FLIGHT).fill(429));
    assert.deepEqual([(await standIn.billed()) - billed, standIn.requests().count - count], [2, 1]);
  });

  it(`${FLOOD} callers cost at most REDIS_MAX_COMMANDS_PER_SECOND, and a caller among them is still limited`, async (t) => {
    const cap = 100;
    const limit = 10;
    const limiter = await shared.warm({
      RATE_LIMIT_GENERAL: `${limit},${HOUR_S}`,
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_FALLBACK_FACTOR: "1",
      REDIS_MAX_COMMANDS_PER_SECOND: cap,
    });
    const { statuses, billed, seconds } = await flood(limiter, (number) => `10.0.${number >> 8}.${number & 255}`);
    t.diagnostic(`${billed} commands in ${seconds.toFixed(1)} s`);
    assert.deepEqual(statuses, { 200: FLOOD });
    assert.ok(billed <= cap * (seconds + 1), `${billed} commands in ${seconds} s`);
    // The limiter uses most of the cap: it asks the store whenever it may.
    assert.ok(billed >= (cap / 2) * Math.floor(seconds), `only ${billed} commands in ${seconds} s`);

    // During such a flood the store decides some of the caller's requests, and memory the others.
    const others = flood(limiter, (number) => `10.1.${number >> 8}.${number & 255}`, 2000);
    assert.equal(await admitted(limiter, CALLER, 100), limit);
    assert.deepEqual((await others).statuses, { 200: 2000 });
  });

  it("recording and escalating the denials of many callers stays within the cap of commands a second", async (t) => {
    const cap = 50;
    const limiter = await shared.warm({
      ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_ESCALATION: "10,60,600", REDIS_MAX_COMMANDS_PER_SECOND: cap,
    });
    const samples = [];
    let [done, started] = [false, performance.now()];
    const sampling = (async () => {
      while (!done) {
        samples.push([performance.now(), await shared.standIn.billed()]);
        await setTimeout(100);
      }
    })();
    await flood(limiter, (number) => `10.0.0.${number % 120}`);
    // Until the isolate has written the events that it gathered.
    await setTimeout(8000);
    await eventually(async () => {
      await ask(limiter, CALLER);
      const { blocked: list } = await good(limiter, "GET", "blocked");
      assert.ok(list.some(({ by }) => by === "escalation"));
    }, 20_000, 1000);
    done = true;
    await sampling;
    const seconds = (performance.now() - started) / 1000;
    const windows = samples.map(([from, before]) => samples.findLast(([at]) => at - from <= 1000)[1] - before);
    const [most, all] = [Math.max(...windows), samples.at(-1)[1] - samples[0][1]];
    t.diagnostic(`${most} commands in a second, ${all} in ${seconds.toFixed(1)} s`);
    // Commands that were sent just before a second may arrive in it.
    assert.ok(most <= 1.5 * cap, `${most} commands in a second`);
    assert.ok(all <= cap * (seconds + 1), `${all} commands in ${seconds} s`);
  });

  it("memory decides beyond the cap under any on_store_failure, because a cap is not a failure", async () => {
    const limit = 40;
    const limiter = await shared.warm({
      RATE_LIMIT_GENERAL: `${limit},${HOUR_S}`,
      RATE_LIMIT_STRICT: `${limit},${HOUR_S}`,
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_POLICIES: { general: { on_store_failure: "allow" }, strict: { on_store_failure: "deny" } },
      RATE_LIMIT_ROUTES: [{ path: "/strict", policies: ["strict"] }],
      RATE_LIMIT_FALLBACK_FACTOR: "1",
      REDIS_MAX_COMMANDS_PER_SECOND: 50,
    });
    for (const path of ["/strict", "/"]) assert.equal(await admitted(limiter, CALLER, 100, path), limit);
  });
});

describe("the memory of an isolate under a flood", () => {
  /** The bound of src/store/memory.rs. */
  const MAX_ENTRIES = 50_000;
  const [DENIED, BLOCKED] = ["192.0.2.1", "192.0.2.2"];

  let limiter;
  afterEach(() => limiter?.stop());

  const modes = {
    "memory is the store": {},
    // Nothing listens on port 1.
    "memory decides in place of an unreachable store": {
      UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1", UPSTASH_REDIS_REST_TOKEN: "token", RATE_LIMIT_FALLBACK_FACTOR: "1",
    },
  };
  for (const [mode, vars] of Object.entries(modes)) {
    it(`the isolate's memory is bounded and keeps every denied caller while ${mode}`, async (t) => {
      limiter = await startWorkerd({
        modules: INSIDE,
        vars: {
          ...vars,
          RATE_LIMIT_GENERAL: `2,${HOUR_S}`,
          RATE_LIMIT_AUTH: `1,60,${HOUR_S}`,
          RATE_LIMIT_IP: "off",
          RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }],
        },
      });
      for (const status of [200, 200, 429]) assert.equal(await ask(limiter, DENIED), status);
      for (const status of [200, 429]) assert.equal(await ask(limiter, BLOCKED, "/auth"), status);
      const started = performance.now();
      const before = await memoryOf(limiter);
      assert.deepEqual(await callers(limiter, 0, MAX_ENTRIES), { 200: MAX_ENTRIES });
      const full = await memoryOf(limiter);
      assert.deepEqual(await callers(limiter, MAX_ENTRIES, MAX_ENTRIES / 2), { 200: MAX_ENTRIES / 2 });
      const after = await memoryOf(limiter);
      const megabytes = [before, full, after].map((bytes) => (bytes / 1e6).toFixed(1));
      t.diagnostic(`${megabytes.join(", ")} MB of linear memory, ${((performance.now() - started) / 1000).toFixed(1)} s`);
      // Unbounded memory would grow by half as much again for half as many callers. An isolate has 128 MB.
      assert.ok(after - full < (full - before) / 4, `memory grew from ${before} to ${full} and then to ${after} bytes`);
      assert.ok(after < 64e6, `${after} bytes`);

      assert.equal(await ask(limiter, DENIED), 429);
      // If the isolate had forgotten the block, this request would be admitted.
      const blocked = await send(limiter.url, { path: "/auth", headers: { "CF-Connecting-IP": BLOCKED } });
      assert.deepEqual([blocked.status, blocked.json().blocked], [429, true]);
      // The isolate forgets callers that are not denied. The first of the flood has its whole limit again, which the bound costs.
      assert.equal((await send(limiter.url, { headers: { "CF-Connecting-IP": "10.0.0.0" } })).headers["x-ratelimit-remaining"], "1");
    });
  }
});

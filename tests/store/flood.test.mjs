/**
 * A flood does not amplify: what it costs the store does not grow with it, nor does what the isolate keeps, and it frees
 * nobody who is denied.
 */

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { setTimeout } from "node:timers/promises";
import { ADMIN_TOKEN, eventually, good } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { INSIDE, callers, memoryOf, pass } from "../harness/inside.mjs";
import { ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const FLOOD = 20_000;
const IN_FLIGHT = 50;

/** How long a denial is repeated without asking the store, as the README says. */
const LONGEST_MS = 10_000;

describe("what a flood costs the store", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  /** So many requests, so many of them in flight at any time: what they were answered, what they cost, what they took. */
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

  /** How many of so many requests, one after the other, are admitted; the rest is denied. */
  async function admitted(limiter, caller, requests, path) {
    let count = 0;
    for (let request = 0; request < requests; request++) {
      const status = await ask(limiter, caller, path);
      assert.ok(status === 200 || status === 429, `${status}`);
      if (status === 200) count++;
    }
    return count;
  }

  it(`${FLOOD} requests of a denied caller are fewer than 250 commands`, async (t) => {
    const limiter = await shared.warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S}` }, { modules: INSIDE });
    await ask(limiter, CALLER);
    let [billed, seconds] = [0, 0];
    // Four parts, each due to ask again: else a quick machine would be done before it comes to that.
    for (let part = 0; part < 4; part++) {
      const cost = await flood(limiter, () => CALLER, FLOOD / 4);
      assert.deepEqual(cost.statuses, { 429: FLOOD / 4 });
      assert.ok(cost.billed >= 2, "the denial was asked for");
      billed += cost.billed;
      seconds += cost.seconds;
      await pass(limiter, LONGEST_MS);
    }
    t.diagnostic(`${billed} commands in ${seconds.toFixed(1)} s`);
    assert.ok(billed < 250, `${billed}`);
  });

  it(`${IN_FLIGHT} requests at once of a caller whose denial is due are one question`, async () => {
    const { standIn } = shared;
    const limiter = await shared.warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S}` }, { modules: INSIDE });
    for (const status of [200, 429, 429]) assert.equal(await ask(limiter, CALLER), status);
    await pass(limiter, LONGEST_MS);
    const [billed, { count }] = [await standIn.billed(), standIn.requests()];
    // Long enough that all of them come while the first is asking.
    standIn.faults.set({ kind: "delay", ms: 500 });
    const statuses = await Promise.all(Array.from({ length: IN_FLIGHT }, () => ask(limiter, CALLER)));
    assert.deepEqual(statuses, Array(IN_FLIGHT).fill(429));
    assert.deepEqual([(await standIn.billed()) - billed, standIn.requests().count - count], [2, 1]);
  });

  it(`${FLOOD} callers are no more commands a second than REDIS_MAX_COMMANDS_PER_SECOND, and one of them is limited`, async (t) => {
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
    assert.ok(billed <= cap * (seconds + 1), `${billed} in ${seconds} s`);
    // Hardly fewer either: the store is asked as far as it may be.
    assert.ok(billed >= (cap / 2) * Math.floor(seconds), `${billed} in ${seconds} s`);

    // In the middle of such a flood, by the store or by memory, as it comes.
    const others = flood(limiter, (number) => `10.1.${number >> 8}.${number & 255}`, 2000);
    assert.equal(await admitted(limiter, CALLER, 100), limit);
    assert.deepEqual((await others).statuses, { 200: 2000 });
  });

  it("of denials of many callers, with escalation, is no more commands a second than the cap", async (t) => {
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
    // While it writes what it has gathered.
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
    // What was sent a moment before a second may arrive in it.
    assert.ok(most <= 1.5 * cap, `${most} in a second`);
    assert.ok(all <= cap * (seconds + 1), `${all} in ${seconds} s`);
  });

  it("beyond that, memory decides whatever on_store_failure says: a cap is no failure", async () => {
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

describe("what an isolate keeps", () => {
  /** As src/store/memory.rs has it. */
  const ENTRIES = 50_000;
  const [DENIED, BLOCKED] = ["192.0.2.1", "192.0.2.2"];

  let limiter;
  afterEach(() => limiter?.stop());

  const modes = {
    "memory is the store": {},
    // Where nothing listens.
    "memory decides in place of a store that is gone": {
      UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1", UPSTASH_REDIS_REST_TOKEN: "token", RATE_LIMIT_FALLBACK_FACTOR: "1",
    },
  };
  for (const [mode, vars] of Object.entries(modes)) {
    it(`${mode}: bounded, and it forgets nobody who is denied`, async (t) => {
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
      assert.deepEqual(await callers(limiter, 0, ENTRIES), { 200: ENTRIES });
      const full = await memoryOf(limiter);
      assert.deepEqual(await callers(limiter, ENTRIES, ENTRIES / 2), { 200: ENTRIES / 2 });
      const after = await memoryOf(limiter);
      const megabytes = [before, full, after].map((bytes) => (bytes / 1e6).toFixed(1));
      t.diagnostic(`${megabytes.join(", ")} MB of linear memory, ${((performance.now() - started) / 1000).toFixed(1)} s`);
      // As many bytes a caller again would be half of the growth. Of an isolate's 128 MB:
      assert.ok(after - full < (full - before) / 4, `${before}, ${full}, ${after}`);
      assert.ok(after < 64e6, `${after}`);

      assert.equal(await ask(limiter, DENIED), 429);
      // Were it forgotten, this would be the first request of two.
      const blocked = await send(limiter.url, { path: "/auth", headers: { "CF-Connecting-IP": BLOCKED } });
      assert.deepEqual([blocked.status, blocked.json().blocked], [429, true]);
      // Others are: the first of them has its limit anew, which is what the bound costs.
      assert.equal((await send(limiter.url, { headers: { "CF-Connecting-IP": "10.0.0.0" } })).headers["x-ratelimit-remaining"], "1");
    });
  }
});

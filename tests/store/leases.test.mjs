/**
 * Leases on workerd and a real Redis. Several processes still hold a caller to its limit, most requests do not ask the store, and the
 * requests of a busy caller do not wait for a round trip.
 */

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { after, before, beforeEach, describe, it } from "node:test";
import { CALLER } from "../harness/fixtures.mjs";
import { PREFIX, WINDOW, ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { drive, mostInOneWindow, overflow } from "../harness/window.mjs";
import { within } from "../harness/within.mjs";

describe("leases", () => {
  let shared, redis;
  const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  after(async () => {
    agent.destroy();
    await redis?.destroy();
    await shared?.stop();
  });
  beforeEach(() => shared.reset());

  const leased = (limit, options = {}) => ({
    RATE_LIMIT_GENERAL: limit,
    RATE_LIMIT_IP: "off",
    RATE_LIMIT_POLICIES: { general: { lease: 100, ...options } },
  });

  /** Runs `body` and returns its result, the commands billed and the calls to the store. */
  async function cost(body) {
    let result;
    const { billed, requests: calls } = await shared.cost(async () => {
      result = await body();
      // A prefetch may still be in flight.
      await new Promise((resolve) => setTimeout(resolve, 100));
    });
    return { billed, calls, result };
  }

  /** Sends requests of one caller at a steady rate and returns the answers. */
  async function paced(limiter, requests, perSecond) {
    const start = performance.now();
    const answers = [];
    for (let i = 0; i < requests; i++) {
      const due = start + (i * 1000) / perSecond - performance.now();
      if (due > 0) await new Promise((resolve) => setTimeout(resolve, due));
      answers.push(send(limiter.url, { headers: { "CF-Connecting-IP": CALLER }, agent }));
    }
    return Promise.all(answers);
  }

  it("a caller with 100 requests a second costs under 0.1 round trips and 0.3 billed commands each", async (t) => {
    const limiter = await shared.warm(leased("10000,60"));
    const requests = 800;
    const { billed, calls, result } = await cost(() => paced(limiter, requests, 100));
    t.diagnostic(`${calls / requests} round trips and ${billed / requests} commands for each request`);
    assert.deepEqual([...new Set(result.map(({ status }) => status))], [200]);
    assert.ok(calls < 0.1 * requests, `${calls} calls`);
    assert.ok(billed < 0.3 * requests, `${billed} commands`);
    // X-RateLimit-Remaining goes down by one with each request, wherever the units come from.
    const remaining = result.map(({ headers }) => Number(headers["x-ratelimit-remaining"])).sort((a, b) => b - a);
    assert.deepEqual(remaining, Array.from({ length: requests }, (_, i) => 9999 - i));
  });

  it("a busy caller's requests spend leased units without waiting for a store that hangs", async () => {
    const limiter = await shared.warm(leased("100000,60"));
    await paced(limiter, 300, 200);
    shared.standIn.faults.set({ kind: "hang" });
    const answers = await within(paced(limiter, 20, 200), "answers without the store", 10_000);
    for (const { status, headers } of answers) {
      assert.equal(status, 200);
      assert.equal(headers["x-ratelimit-store"], undefined, "leased units should come from the shared store, not from memory");
    }
  });

  it("every request asks the store once and takes nothing in advance if another of its policies has no lease", async () => {
    const limiter = await shared.warm({ ...leased(`1000,${WINDOW}`), RATE_LIMIT_IP: `1000,${WINDOW}` });
    const { billed, calls } = await cost(async () => {
      for (let i = 0; i < 50; i++) assert.equal(await ask(limiter, CALLER), 200);
    });
    assert.deepEqual({ billed, calls }, { billed: 200, calls: 50 });
    const counts = (await redis.get(`${PREFIX}general:${CALLER}`)).match(/=\d+/g);
    assert.deepEqual(counts, ["=50"]);
  });

  it("a block made elsewhere takes effect within one lease of 100 units", async () => {
    const limiter = await shared.warm(leased(`100000,${WINDOW}`));
    await paced(limiter, 200, 200);
    await redis.set(`${PREFIX}blocked:${CALLER}`, '{"reason":"x"}');
    const statuses = (await paced(limiter, 200, 200)).map(({ status }) => status);
    const last = statuses.lastIndexOf(200);
    assert.ok(last < 100, `${last + 1} requests after the block`);
    assert.ok(statuses.includes(429));
  });

  describe("four processes under constant demand", () => {
    const limit = 400;
    const window = 2000;
    /** Runs `body` and counts the calls that took units. Each such call writes the state once, and a denied call writes nothing. */
    const countingWrites = async (body) => {
      const written = async () => Number((await redis.info("commandstats")).match(/cmdstat_set:calls=(\d+)/)?.[1] ?? 0);
      const before = await written();
      const result = await body();
      return { result, calls: (await written()) - before };
    };
    const processes = (options) =>
      Promise.all([1, 2, 3, 4].map(() => shared.warm(leased(`${limit},${window / 1000}`, options))));

    it("a sliding window never admits more than its limit within a window's length", async (t) => {
      const limiters = await processes({});
      const { calls, result } = await countingWrites(() => drive(limiters, agent, 4 * window + 500));
      const most = mostInOneWindow(result, window);
      t.diagnostic(`${result.length} admitted by ${calls} calls, at most ${most} within ${window} ms`);
      assert.ok(most <= limit, `${most} were admitted within a window's length`);
      assert.ok(calls < 0.9 * result.length, "leases should be in use");
      assert.ok(result.length > 2.5 * limit, `only ${result.length} were admitted`);
    });

    it("a token bucket never admits more than its burst and what its rate adds", async (t) => {
      const burst = 200;
      const limiters = await processes({ algorithm: "token-bucket", burst });
      const { calls, result } = await countingWrites(() => drive(limiters, agent, 4 * window));
      const most = overflow(result, burst, limit / window);
      t.diagnostic(`${result.length} admitted by ${calls} calls, ${most.toFixed(1)} above the burst and the rate`);
      assert.ok(most <= 0, `${most} too many were admitted`);
      // Once the burst is spent, there are hardly any units left to lease.
      assert.ok(calls < result.length - 20, "leases should be in use");
      assert.ok(result.length > 2.5 * limit, `only ${result.length} were admitted`);
    });
  });

  it("overflow finds the burst that a bucket should not have admitted", () => {
    const steady = Array.from({ length: 50 }, (_, i) => ({ sent: i * 10, received: i * 10 + 1 }));
    assert.ok(overflow(steady, 1, 0.1) <= 1);
    const burst = Array.from({ length: 12 }, () => ({ sent: 100, received: 101 }));
    assert.ok(Math.abs(overflow([...steady, ...burst], 10, 0.1) - 2.9) < 1);
  });
});

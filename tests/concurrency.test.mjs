/**
 * The bound, with real concurrency: two workerd processes, one Redis.
 */

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { after, before, beforeEach, describe, it } from "node:test";
import { PREFIX, ask, startShared } from "./harness/limited.mjs";

const LIMIT = 100;
const IN_FLIGHT = 400;
/** Nothing refills and no window ends during a test: 100 in ten days are one in 2.4 hours. */
const WINDOW = 10 * 24 * 3600;

const ALGORITHMS = ["sliding-window", "token-bucket", "fixed-window"];

describe("two processes on one Redis", () => {
  let shared;
  const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  before(async () => {
    shared = await startShared();
  });
  after(async () => {
    agent.destroy();
    await shared?.stop();
  });
  beforeEach(() => shared.reset());

  const pair = (vars) => Promise.all([shared.limiter(vars), shared.limiter(vars)]);

  /** Sends `count` requests at once, to each limiter in turn; how many were admitted. Every other one must be a denial. */
  async function admitted(limiters, count, caller, path) {
    const statuses = await Promise.all(
      Array.from({ length: count }, (_, i) => ask(limiters[i % limiters.length], caller(i), path, agent)),
    );
    assert.ok(statuses.every((status) => status === 200 || status === 429), `${[...new Set(statuses)]}`);
    return statuses.filter((status) => status === 200).length;
  }

  /** That Redis decided all of it: memory would have said so. */
  function undisturbed(limiters) {
    for (const limiter of limiters) assert.doesNotMatch(limiter.logs(), /Upstash/);
  }

  for (const algorithm of ALGORITHMS) {
    it(`${algorithm}: of ${IN_FLIGHT} requests in flight exactly ${LIMIT} are admitted`, async (t) => {
      const limiters = await pair({
        RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW}`,
        RATE_LIMIT_IP: "off",
        RATE_LIMIT_POLICIES: { general: { algorithm } },
      });
      const ends = (Math.floor(Date.now() / 1000 / WINDOW) + 1) * WINDOW;
      assert.ok(ends - Date.now() / 1000 > 60, "a fixed window of ten days ends within this minute: run again");
      await ask(limiters[0], "192.0.2.250", "/", agent);
      const before = shared.standIn.requests().count;
      // Held back before Redis runs them, so that they pile up and none is answered from memory.
      shared.standIn.faults.set({ kind: "delay", ms: 1500 });
      assert.equal(await admitted(limiters, IN_FLIGHT, () => "192.0.2.1"), LIMIT);
      const calls = shared.standIn.requests().count - before;
      t.diagnostic(`${calls} calls to the store for ${IN_FLIGHT} requests`);
      assert.equal(calls, IN_FLIGHT, "all were in flight before the first denial came back");
      undisturbed(limiters);
    });
  }

  it("a wide quota is charged what the tight one admits, and no more", async () => {
    const limiters = await pair({
      RATE_LIMIT_GENERAL: `10,${WINDOW}`,
      RATE_LIMIT_IP: `1000,${WINDOW}`,
      RATE_LIMIT_POLICIES: { ip: { algorithm: "fixed-window" } },
    });
    assert.equal(await admitted(limiters, 100, () => "192.0.2.1"), 10);
    const redis = await shared.standIn.redis.client();
    const state = await redis.get(`${PREFIX}ip:192.0.2.1`);
    await redis.destroy();
    assert.match(state, /:10$/);
    undisturbed(limiters);
  });

  it("callers beside each other each have their limit", async () => {
    const limiters = await pair({ RATE_LIMIT_GENERAL: `7,${WINDOW}` });
    assert.equal(await admitted(limiters, 300, (i) => `192.0.2.${1 + (i % 15)}`), 15 * 7);
    undisturbed(limiters);
  });

  it("a sliding window never admits more than its limit within its length, across its boundaries", async (t) => {
    const limit = 50;
    const window = 2000;
    const limiters = await pair({ RATE_LIMIT_GENERAL: `${limit},${window / 1000}`, RATE_LIMIT_IP: "off" });
    await Promise.all(limiters.map((limiter) => ask(limiter, "192.0.2.250", "/", agent)));
    const admissions = [];
    const start = performance.now();
    const drive = async (limiter) => {
      while (performance.now() - start < 5 * window) {
        const sent = performance.now();
        if ((await ask(limiter, "192.0.2.1", "/", agent)) === 200) admissions.push({ sent, received: performance.now() });
      }
    };
    await Promise.all(Array.from({ length: 8 }, (_, i) => drive(limiters[i % 2])));

    admissions.sort((a, b) => a.sent - b.sent);
    let most = 0;
    for (const first of admissions) {
      const end = first.sent + window;
      const held = admissions.filter(({ sent, received }) => sent >= first.sent && received <= end).length;
      most = Math.max(most, held);
    }
    t.diagnostic(`${admissions.length} admitted in ${5 * window} ms, at most ${most} within ${window} ms`);
    assert.ok(most <= limit, `${most} within ${window} ms`);
    // Five windows, each a sub-window longer at the worst, and then time lost on a busy machine.
    assert.ok(admissions.length >= 3 * limit, `${admissions.length} admitted in all`);
    undisturbed(limiters);
  });
});

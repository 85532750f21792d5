/**
 * Two workerd processes on one Redis, with requests that truly meet there: a gate before the store holds every call until
 * the last of them has arrived, and lets them on in random order. So none is answered from memory, and none is first.
 */

import assert from "node:assert/strict";
import { Agent, request as httpRequest } from "node:http";
import { after, before, beforeEach, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { WINDOW, ask, consumed, startShared } from "../harness/limited.mjs";
import { densest, drive } from "../harness/window.mjs";
import { within } from "../harness/within.mjs";

const AT_ONCE = 400;

let shared, gate, redis;
const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
before(async () => {
  shared = await startShared();
  redis = await shared.standIn.redis.client();
  gate = await startGate(shared.standIn.url);
});
after(async () => {
  agent.destroy();
  await gate?.stop();
  await shared?.stop();
});
beforeEach(() => shared.reset());

/** Two limiters behind the gate, the script loaded. */
async function pair(vars) {
  const limiters = await Promise.all([1, 2].map(() => shared.limiter({ UPSTASH_REDIS_REST_URL: gate.url, ...vars })));
  for (const limiter of limiters) assert.equal(await ask(limiter, "192.0.2.250", "/", agent), 200);
  await redis.flushDb();
  return limiters;
}

/** Sends them all at once, by turns to each process, and through the gate together; who was admitted, by which process. */
async function atOnce(limiters, callers) {
  gate.hold(callers.length);
  const outcomes = await within(
    Promise.all(callers.map(async (caller, i) => ({ caller, by: i % 2, status: await ask(limiters[i % 2], caller, "/", agent) }))),
    "every answer", 60_000,
  );
  assert.equal(gate.most, callers.length, "calls to the store in flight at one time");
  assert.deepEqual([...new Set(outcomes.map(({ status }) => status))].filter((status) => status !== 200 && status !== 429), []);
  for (const limiter of limiters) assert.equal(limiter.logs(), "", "Upstash decided all of it");
  return outcomes.filter(({ status }) => status === 200);
}

const count = (list, property) => list.reduce((counts, item) => ({ ...counts, [item[property]]: (counts[item[property]] ?? 0) + 1 }), {});

describe("requests that meet at the store", () => {
  for (const algorithm of ["sliding-window", "token-bucket", "fixed-window"]) {
    it(`${algorithm}: of ${AT_ONCE} in flight exactly 100 pass, by either process`, async (t) => {
      const limiters = await pair({
        RATE_LIMIT_GENERAL: `100,${WINDOW}`,
        RATE_LIMIT_IP: "off",
        RATE_LIMIT_POLICIES: { general: { algorithm } },
      });
      const admitted = await atOnce(limiters, Array(AT_ONCE).fill("192.0.2.1"));
      const by = count(admitted, "by");
      t.diagnostic(`${admitted.length} admitted (${by[0]} and ${by[1]}), ${gate.most} in flight`);
      assert.equal(admitted.length, 100);
      assert.ok(by[0] > 0 && by[1] > 0, JSON.stringify(by));
      assert.equal(await consumed(redis, "general:192.0.2.1"), 100);
    });
  }

  for (const [tight, wide] of [["sliding-window", "fixed-window"], ["fixed-window", "token-bucket"], ["token-bucket", "sliding-window"]]) {
    it(`a tight ${tight} and a wide ${wide}: what one denies the other is not charged`, async () => {
      const limiters = await pair({
        RATE_LIMIT_GENERAL: `30,${WINDOW}`,
        RATE_LIMIT_IP: `100000,${WINDOW}`,
        RATE_LIMIT_POLICIES: { general: { algorithm: tight }, ip: { algorithm: wide } },
      });
      const admitted = await atOnce(limiters, Array(AT_ONCE).fill("192.0.2.1"));
      assert.equal(admitted.length, 30);
      assert.equal(await consumed(redis, "general:192.0.2.1"), 30);
      // A bucket of 100000 a day or two drips one per second.
      const charged = await consumed(redis, "ip:192.0.2.1");
      if (wide === "token-bucket") assert.ok(charged <= 30 && charged >= 1, `${charged}`);
      else assert.equal(charged, 30);
    });
  }

  it("callers each have their limit, to the unit", async () => {
    const limiters = await pair({ RATE_LIMIT_GENERAL: `7,${WINDOW}` });
    // By pairs, so that each caller asks both processes.
    const callers = Array.from({ length: AT_ONCE }, (_, i) => `192.0.2.${1 + ((i >> 1) % 16)}`);
    const admitted = count(await atOnce(limiters, callers), "caller");
    assert.deepEqual(admitted, Object.fromEntries([...new Set(callers)].map((caller) => [caller, 7])));
  });

  it("a limit that all callers share and one that each has: each request is charged to both or to neither", async (t) => {
    const limiters = await pair({
      RATE_LIMIT_GENERAL: `150,${WINDOW}`,
      RATE_LIMIT_IP: `32,${WINDOW}`,
      RATE_LIMIT_POLICIES: { general: { key: "global" } },
    });
    const callers = Array.from({ length: AT_ONCE }, (_, i) => `192.0.2.${1 + (i % 5)}`);
    const admitted = await atOnce(limiters, callers);
    const each = count(admitted, "caller");
    t.diagnostic(JSON.stringify(each));
    assert.equal(admitted.length, 150);
    assert.equal(await consumed(redis, "general:global"), 150);
    for (const [caller, number] of Object.entries(each)) {
      assert.ok(number <= 32, `${caller}: ${number}`);
      assert.equal(await consumed(redis, `ip:${caller}`), number, caller);
    }
  });

  it("a block that a denial sets is set once, however many are denied at once", async () => {
    const limiters = await pair({ RATE_LIMIT_GENERAL: `10,${WINDOW},600`, RATE_LIMIT_IP: "off" });
    const billed = await shared.standIn.billed();
    const admitted = await atOnce(limiters, Array(AT_ONCE).fill("192.0.2.1"));
    assert.equal(admitted.length, 10);
    // Call and MGET for each, a SET for each admission, and one for the block.
    assert.equal((await shared.standIn.billed()) - billed, 2 * AT_ONCE + 10 + 1);
  });
});

describe("the measurement of a window", () => {
  it("finds what a fixed window lets through around its boundary", async (t) => {
    const limit = 50;
    const window = 2000;
    const limiters = await pair({
      RATE_LIMIT_GENERAL: `${limit},${window / 1000}`,
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_POLICIES: { general: { algorithm: "fixed-window" } },
    });
    gate.hold(0);
    // From the middle of one window into the next.
    const middle = 1.5 * window - (Date.now() % window);
    await new Promise((resolve) => setTimeout(resolve, middle % window));
    const most = densest(await drive(limiters, agent, window), window);
    t.diagnostic(`${most} within ${window} ms`);
    assert.ok(most > limit && most <= 2 * limit, `${most}`);
  });

  it("and never more than its limit of a sliding one, with demand at every moment of four windows", async (t) => {
    const limit = 50;
    const window = 2000;
    const limiters = await pair({ RATE_LIMIT_GENERAL: `${limit},${window / 1000}`, RATE_LIMIT_IP: "off" });
    gate.hold(0);
    const admissions = await drive(limiters, agent, 4 * window + 500);
    const most = densest(admissions, window);
    t.diagnostic(`${admissions.length} admitted in all, at most ${most} within ${window} ms`);
    assert.ok(most <= limit, `${most}`);
    // A sub-window (34 ms) late each time: the fifth window begins before the end.
    assert.ok(admissions.length > 3 * limit, `${admissions.length}`);
  });
});

/** Passes calls on to the store; `hold(n)`: not before the next n are all here. `most`: how many were here at one time since. */
async function startGate(store) {
  const onward = new Agent({ keepAlive: true, maxSockets: Infinity });
  let held = [];
  let expected = 0;
  let here = 0;
  const gate = await startOrigin(async (request, response, received) => {
    const body = await received.body;
    gate.most = Math.max(gate.most, ++here);
    response.on("close", () => here--);
    const pass = () => {
      const { host: _, ...headers } = request.headers;
      httpRequest(new URL(request.url, store), { method: request.method, headers, agent: onward }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      }).on("error", () => response.destroy()).end(body);
    };
    if (expected === 0) return pass();
    held.push(pass);
    if (held.length < expected) return;
    const waiting = held.map((pass) => [Math.random(), pass]).sort(([a], [b]) => a - b);
    [held, expected] = [[], 0];
    for (const [, pass] of waiting) pass();
  });
  gate.most = 0;
  gate.hold = (number) => {
    gate.most = 0;
    expected = number;
  };
  const { stop } = gate;
  gate.stop = async () => {
    onward.destroy();
    await stop.call(gate);
  };
  return gate;
}

/**
 * Two workerd processes on one Redis, with requests that really are concurrent. A gate in front of the store holds every call until the
 * last has arrived, and releases them in random order. So the isolates answer none from memory, and the order in which they sent the
 * calls does not matter.
 */

import assert from "node:assert/strict";
import { Agent, request as httpRequest } from "node:http";
import { after, before, beforeEach, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { WINDOW, ask, consumed, startShared } from "../harness/limited.mjs";
import { drive, mostInOneWindow } from "../harness/window.mjs";
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

/** Starts two limiters behind the gate and loads the script. */
async function pair(vars) {
  const limiters = await Promise.all([1, 2].map(() => shared.limiter({ UPSTASH_REDIS_REST_URL: gate.url, ...vars })));
  for (const limiter of limiters) assert.equal(await ask(limiter, "192.0.2.250", "/", agent), 200);
  await redis.flushDb();
  return limiters;
}

/**
 * Sends one request of each caller, alternately to each process. The gate releases them together. Returns the admissions, each with its
 * caller and `by`, the index of the process.
 */
async function sendTogether(limiters, callers) {
  gate.hold(callers.length);
  const outcomes = await within(
    Promise.all(callers.map(async (caller, i) => ({ caller, by: i % 2, status: await ask(limiters[i % 2], caller, "/", agent) }))),
    "every answer", 60_000,
  );
  assert.equal(gate.most, callers.length, "all calls to the store should be in flight at once");
  assert.deepEqual([...new Set(outcomes.map(({ status }) => status))].filter((status) => status !== 200 && status !== 429), []);
  for (const limiter of limiters) assert.equal(limiter.logs(), "", "Upstash should decide every request");
  return outcomes.filter(({ status }) => status === 200);
}

const count = (list, property) => list.reduce((counts, item) => ({ ...counts, [item[property]]: (counts[item[property]] ?? 0) + 1 }), {});

describe("concurrent requests to two processes", () => {
  for (const algorithm of ["sliding-window", "token-bucket", "fixed-window"]) {
    it(`a ${algorithm} of 100 admits exactly 100 of ${AT_ONCE} concurrent requests`, async (t) => {
      const limiters = await pair({
        RATE_LIMIT_GENERAL: `100,${WINDOW}`,
        RATE_LIMIT_IP: "off",
        RATE_LIMIT_POLICIES: { general: { algorithm } },
      });
      const admitted = await sendTogether(limiters, Array(AT_ONCE).fill("192.0.2.1"));
      const by = count(admitted, "by");
      t.diagnostic(`${admitted.length} admitted (${by[0]} and ${by[1]}), ${gate.most} in flight`);
      assert.equal(admitted.length, 100);
      assert.ok(by[0] > 0 && by[1] > 0, JSON.stringify(by));
      assert.equal(await consumed(redis, "general:192.0.2.1"), 100);
    });
  }

  for (const [tight, wide] of [["sliding-window", "fixed-window"], ["fixed-window", "token-bucket"], ["token-bucket", "sliding-window"]]) {
    it(`a request that a tight ${tight} denies is not charged to a wide ${wide}`, async () => {
      const limiters = await pair({
        RATE_LIMIT_GENERAL: `30,${WINDOW}`,
        RATE_LIMIT_IP: `100000,${WINDOW}`,
        RATE_LIMIT_POLICIES: { general: { algorithm: tight }, ip: { algorithm: wide } },
      });
      const admitted = await sendTogether(limiters, Array(AT_ONCE).fill("192.0.2.1"));
      assert.equal(admitted.length, 30);
      assert.equal(await consumed(redis, "general:192.0.2.1"), 30);
      // A bucket of 100000 in a day or two gains about one unit a second.
      const charged = await consumed(redis, "ip:192.0.2.1");
      if (wide === "token-bucket") assert.ok(charged <= 30 && charged >= 1, `${charged}`);
      else assert.equal(charged, 30);
    });
  }

  it("each caller is admitted exactly up to its limit", async () => {
    const limiters = await pair({ RATE_LIMIT_GENERAL: `7,${WINDOW}` });
    // Each caller sends two requests in a row, one to each process.
    const callers = Array.from({ length: AT_ONCE }, (_, i) => `192.0.2.${1 + ((i >> 1) % 16)}`);
    const admitted = count(await sendTogether(limiters, callers), "caller");
    assert.deepEqual(admitted, Object.fromEntries([...new Set(callers)].map((caller) => [caller, 7])));
  });

  it("a request under a global and a per-caller limit is charged to both or to neither", async (t) => {
    const limiters = await pair({
      RATE_LIMIT_GENERAL: `150,${WINDOW}`,
      RATE_LIMIT_IP: `32,${WINDOW}`,
      RATE_LIMIT_POLICIES: { general: { key: "global" } },
    });
    const callers = Array.from({ length: AT_ONCE }, (_, i) => `192.0.2.${1 + (i % 5)}`);
    const admitted = await sendTogether(limiters, callers);
    const each = count(admitted, "caller");
    t.diagnostic(JSON.stringify(each));
    assert.equal(admitted.length, 150);
    assert.equal(await consumed(redis, "general:global"), 150);
    for (const [caller, number] of Object.entries(each)) {
      assert.ok(number <= 32, `${caller} was admitted ${number} times`);
      assert.equal(await consumed(redis, `ip:${caller}`), number, caller);
    }
  });

  it("concurrent denials set a policy's block once", async () => {
    const limiters = await pair({ RATE_LIMIT_GENERAL: `10,${WINDOW},600`, RATE_LIMIT_IP: "off" });
    const billed = await shared.standIn.billed();
    const admitted = await sendTogether(limiters, Array(AT_ONCE).fill("192.0.2.1"));
    assert.equal(admitted.length, 10);
    // A call and an MGET for each request, a SET for each admission, and one SET for the block.
    assert.equal((await shared.standIn.billed()) - billed, 2 * AT_ONCE + 10 + 1);
  });
});

describe("admissions within one window's length", () => {
  it("a fixed window admits more than its limit within a window's length around its boundary", async (t) => {
    const limit = 50;
    const window = 2000;
    const limiters = await pair({
      RATE_LIMIT_GENERAL: `${limit},${window / 1000}`,
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_POLICIES: { general: { algorithm: "fixed-window" } },
    });
    gate.hold(0);
    // Drive from the middle of one window to the middle of the next.
    const middle = 1.5 * window - (Date.now() % window);
    await new Promise((resolve) => setTimeout(resolve, middle % window));
    const most = mostInOneWindow(await drive(limiters, agent, window), window);
    t.diagnostic(`${most} within ${window} ms`);
    assert.ok(most > limit && most <= 2 * limit, `${most} were admitted within a window's length`);
  });

  it("a sliding window never admits more than its limit within a window's length, under constant demand", async (t) => {
    const limit = 50;
    const window = 2000;
    const limiters = await pair({ RATE_LIMIT_GENERAL: `${limit},${window / 1000}`, RATE_LIMIT_IP: "off" });
    gate.hold(0);
    const admissions = await drive(limiters, agent, 4 * window + 500);
    const most = mostInOneWindow(admissions, window);
    t.diagnostic(`${admissions.length} admitted in all, at most ${most} within ${window} ms`);
    assert.ok(most <= limit, `${most} were admitted within a window's length`);
    // Each window's units return up to one sub-window (34 ms) late, and still the fifth window begins before the end.
    assert.ok(admissions.length > 3 * limit, `only ${admissions.length} were admitted`);
  });
});

/**
 * Starts a server that passes calls on to the store. After `hold(n)` it holds the next n calls until all have arrived. `most` is the most
 * calls in flight since `hold`.
 */
async function startGate(store) {
  const agent = new Agent({ keepAlive: true, maxSockets: Infinity });
  let held = [];
  let expected = 0;
  let inFlight = 0;
  const gate = await startOrigin(async (request, response, received) => {
    const body = await received.body;
    gate.most = Math.max(gate.most, ++inFlight);
    response.on("close", () => inFlight--);
    const release = () => {
      const { host: _, ...headers } = request.headers;
      httpRequest(new URL(request.url, store), { method: request.method, headers, agent }, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      }).on("error", () => response.destroy()).end(body);
    };
    if (expected === 0) return release();
    held.push(release);
    if (held.length < expected) return;
    const shuffled = held.map((release) => [Math.random(), release]).sort(([a], [b]) => a - b);
    [held, expected] = [[], 0];
    for (const [, release] of shuffled) release();
  });
  gate.most = 0;
  gate.hold = (number) => {
    gate.most = 0;
    expected = number;
  };
  const { stop } = gate;
  gate.stop = async () => {
    agent.destroy();
    await stop.call(gate);
  };
  return gate;
}

/**
 * Denials that an isolate remembers, seen from outside: denials by blocks and by quotas. The isolate forgets each when it ends, and
 * after ten seconds at most, so that an operator's change in another isolate takes effect.
 */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { DOWN, PREFIX, ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";

/** How long an isolate remembers a denial at most. */
const MAX_REMEMBERED_MS = 10_000;

describe("remembered denials", () => {
  let shared, redis;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  const warm = (vars) => shared.warm(vars);

  /** Writes a block in the form in which the limiter writes it. */
  const block = (address, until) => redis.set(`${PREFIX}blocked:${address}`, JSON.stringify({ until, reason: "test" }));

  it("a blocked caller costs 2 commands the first time and none while remembered, whatever the request's cost", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `10,${HOUR_S}`,
      RATE_LIMIT_ROUTES: [{ path: "/expensive", policies: ["general"], cost: 5 }],
    });
    await block(CALLER, Date.now() + 60_000);
    assert.equal(await shared.costOf(limiter), "429 2 1");
    assert.equal(await shared.costOf(limiter), "429 0 0");
    assert.equal(await shared.costOf(limiter, CALLER, "/expensive"), "429 0 0");
    // The denied requests consumed nothing, and other callers are admitted.
    assert.deepEqual((await redis.keys("*")).filter((key) => key.includes(CALLER)), [`${PREFIX}blocked:${CALLER}`]);
    assert.equal(await shared.costOf(limiter, "192.0.2.2"), "200 4 1");
  });

  it("a block denies when it has no end or an unreadable one", async () => {
    const limiter = await warm();
    for (const [address, text] of [["192.0.2.3", "{}"], ["192.0.2.4", "garbage"], ["192.0.2.5", '{"until":null}']]) {
      await redis.set(`${PREFIX}blocked:${address}`, text);
      assert.equal(await shared.costOf(limiter, address), "429 2 1");
      assert.equal(await shared.costOf(limiter, address), "429 0 0");
    }
    await block("192.0.2.6", Date.now() - 1);
    assert.equal(await shared.costOf(limiter, "192.0.2.6"), "200 4 1");
  });

  it("a disabled limiter still denies blocked callers, for 2 commands and then none, and counts no request", async () => {
    const limiter = await warm({ RATE_LIMIT_ENABLED: "false", RATE_LIMIT_GENERAL: `1,${HOUR_S}` });
    for (let request = 0; request < 5; request++) assert.equal(await shared.costOf(limiter), "200 2 1");
    await block(CALLER, Date.now() + 60_000);
    assert.equal(await shared.costOf(limiter), "429 2 1");
    assert.equal(await shared.costOf(limiter), "429 0 0");
    assert.deepEqual(await redis.keys("*"), [`${PREFIX}blocked:${CALLER}`]);
  });

  it("a shadow policy costs 3 commands while it would admit and 2 afterwards, and never denies", async () => {
    const limiter = await warm({
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_GENERAL: `2,${HOUR_S},600`,
      RATE_LIMIT_POLICIES: { general: { mode: "shadow" } },
    });
    const seen = [];
    for (let request = 0; request < 4; request++) seen.push(await shared.costOf(limiter));
    assert.deepEqual(seen, ["200 3 1", "200 3 1", "200 2 1", "200 2 1"]);
    assert.deepEqual((await redis.keys("*")).filter((key) => key.endsWith("blocked")), []);
  });

  it("a request that costs more than the limit costs 2 commands and then none, and sets no block", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `5,${HOUR_S},600`,
      RATE_LIMIT_ROUTES: [{ path: "/expensive", policies: ["general"], cost: 6 }],
    });
    assert.equal(await shared.costOf(limiter, CALLER, "/expensive"), "429 2 1");
    assert.equal(await shared.costOf(limiter, CALLER, "/expensive"), "429 0 0");
    assert.equal(await shared.costOf(limiter), "200 4 1");
  });

  it("a denial of callers without an address is remembered like any other", async () => {
    const limiter = await warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S},600`, RATE_LIMIT_IP: "off" });
    assert.equal(await shared.costOf(limiter, "garbage"), "200 3 1");
    assert.equal(await shared.costOf(limiter, "nonsense"), "429 2 1");
    assert.equal(await shared.costOf(limiter, ""), "429 0 0");
    assert.ok(await redis.exists(`${PREFIX}general:unknown`));
  });

  it("an isolate asks Redis again as soon as the quota may admit, and not before", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: "2,2",
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_POLICIES: { general: { algorithm: "token-bucket" } },
    });
    const started = performance.now();
    for (let request = 0; request < 2; request++) assert.equal(await ask(limiter, CALLER), 200);
    assert.equal(await ask(limiter, CALLER), 429);
    const { count } = shared.standIn.requests();
    let denials = 0;
    await within((async () => {
      while ((await ask(limiter, CALLER)) !== 200) denials++;
    })(), "an admission");
    assert.ok(denials > 3, `${denials} denials`);
    // All of these denials came from memory: the next call to the store was the admission.
    assert.equal(shared.standIn.requests().count - count, 1);
    // The bucket gains one token a second. The limiter's clock has whole milliseconds, hence 999.
    assert.ok(performance.now() - started >= 999);
  });

  it("a reset and the lifting of an operator's or a policy's block take effect within ten seconds", async (t) => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `1,${HOUR_S}`,
      RATE_LIMIT_AUTH: `1,${HOUR_S},${HOUR_S}`,
      // This test counts calls to the store, so the limiter must not send events.
      RATE_LIMIT_EVENTS: false,
      RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }],
    });
    const [reset, lifted, policy] = ["192.0.2.11", "192.0.2.12", "192.0.2.13"];
    await ask(limiter, reset);
    await ask(limiter, policy, "/auth");
    await block(lifted, Date.now() + HOUR_S * 1000);
    const cases = [[reset, "/"], [lifted, "/"], [policy, "/auth"]];
    const denied = await Promise.all(cases.map(async ([caller, path]) => {
      assert.equal(await ask(limiter, caller, path), 429);
      return performance.now();
    }));
    await redis.del([`${PREFIX}general:${reset}`, `${PREFIX}blocked:${lifted}`, `${PREFIX}auth:${policy}`, `${PREFIX}auth:${policy}:blocked`]);
    const { count } = shared.standIn.requests();
    const took = await Promise.all(cases.map(([caller, path], i) => within((async () => {
      while ((await ask(limiter, caller, path)) !== 200) await new Promise((resolve) => setTimeout(resolve, 50));
      return performance.now() - denied[i];
    })(), `the admission of ${caller}`, 2 * MAX_REMEMBERED_MS)));
    t.diagnostic(`seen after ${took.map(Math.round)} ms, ${shared.standIn.requests().count - count} calls to the store`);
    // An admission much earlier than ten seconds would show that the denial was not remembered.
    // The decision itself took part of the time.
    for (const ms of took) assert.ok(ms > MAX_REMEMBERED_MS - 1000 && ms < MAX_REMEMBERED_MS + 3000, `the change took effect after ${ms} ms`);
    assert.equal(shared.standIn.requests().count - count, 3, "each isolate should ask the store once, after it forgot the denial");
  });

  it("a denial that memory decides while Upstash fails is not remembered", async () => {
    const limiter = await warm({ RATE_LIMIT_GENERAL: `10,${HOUR_S}`, RATE_LIMIT_FALLBACK_FACTOR: "0.1" });
    shared.standIn.faults.set(DOWN);
    assert.equal(await ask(limiter, CALLER), 200);
    assert.equal(await ask(limiter, CALLER), 429);
    shared.standIn.faults.clear();
    // Two more commands than usual: the request also reconciles what memory admitted.
    assert.equal(await shared.costOf(limiter), "200 6 1");
  });

  it("a remembered denial has the same status, headers and body as the original", async () => {
    const limiter = await warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S}` });
    const get = () => send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
    await get();
    const [original, remembered] = [await get(), await get()];
    assert.equal(original.status, 429);
    const strip = ({ status, headers: { date, "retry-after": wait, ...headers }, ...rest }) => {
      const { retryAfter, message, ...body } = rest.json();
      return { status, headers: { ...headers, "content-length": undefined }, body, same: Number(wait) === retryAfter };
    };
    assert.deepEqual(strip(remembered), strip(original));
  });
});

/**
 * What an isolate remembers of denials, seen from outside: blocks as well as quotas, never longer than they hold, and never
 * so long that what an operator does elsewhere takes no effect.
 */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { DOWN, PREFIX, ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";

/** As the design has it. */
const LONGEST_MS = 10_000;

describe("remembered denials", () => {
  let shared, redis;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  const warm = (vars) => shared.warm(vars);

  /** As abuse control will write it. */
  const block = (address, until) => redis.set(`${PREFIX}blocked:${address}`, JSON.stringify({ until, reason: "test" }));

  it("a caller blocked everywhere costs 2 when asked for, and 0 when remembered, at any cost of the request", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `10,${HOUR_S}`,
      RATE_LIMIT_ROUTES: [{ path: "/dear", policies: ["general"], cost: 5 }],
    });
    await block(CALLER, Date.now() + 60_000);
    assert.equal(await shared.costOf(limiter), "429 2 1");
    assert.equal(await shared.costOf(limiter), "429 0 0");
    assert.equal(await shared.costOf(limiter, CALLER, "/dear"), "429 0 0");
    // Nothing was consumed, and others are not meant.
    assert.deepEqual((await redis.keys("*")).filter((key) => key.includes(CALLER)), [`${PREFIX}blocked:${CALLER}`]);
    assert.equal(await shared.costOf(limiter, "192.0.2.2"), "200 4 1");
  });

  it("a block with no end, or with one that cannot be read, blocks", async () => {
    const limiter = await warm();
    for (const [address, text] of [["192.0.2.3", "{}"], ["192.0.2.4", "garbage"], ["192.0.2.5", '{"until":null}']]) {
      await redis.set(`${PREFIX}blocked:${address}`, text);
      assert.equal(await shared.costOf(limiter, address), "429 2 1");
      assert.equal(await shared.costOf(limiter, address), "429 0 0");
    }
    await block("192.0.2.6", Date.now() - 1);
    assert.equal(await shared.costOf(limiter, "192.0.2.6"), "200 4 1");
  });

  it("a disabled limiter stops blocked callers all the same, for 2 and then 0, and counts nobody", async () => {
    const limiter = await warm({ RATE_LIMIT_ENABLED: "false", RATE_LIMIT_GENERAL: `1,${HOUR_S}` });
    for (let request = 0; request < 5; request++) assert.equal(await shared.costOf(limiter), "200 2 1");
    await block(CALLER, Date.now() + 60_000);
    assert.equal(await shared.costOf(limiter), "429 2 1");
    assert.equal(await shared.costOf(limiter), "429 0 0");
    assert.deepEqual(await redis.keys("*"), [`${PREFIX}blocked:${CALLER}`]);
  });

  it("a shadow policy alone: 3 while it would admit, then 2, and never a denial", async () => {
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

  it("a request that could never be admitted costs 2, then 0, and sets no block", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `5,${HOUR_S},600`,
      RATE_LIMIT_ROUTES: [{ path: "/dear", policies: ["general"], cost: 6 }],
    });
    assert.equal(await shared.costOf(limiter, CALLER, "/dear"), "429 2 1");
    assert.equal(await shared.costOf(limiter, CALLER, "/dear"), "429 0 0");
    assert.equal(await shared.costOf(limiter), "200 4 1");
  });

  it("a caller without an address is denied and remembered like others", async () => {
    const limiter = await warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S},600`, RATE_LIMIT_IP: "off" });
    assert.equal(await shared.costOf(limiter, "garbage"), "200 3 1");
    assert.equal(await shared.costOf(limiter, "nonsense"), "429 2 1");
    assert.equal(await shared.costOf(limiter, ""), "429 0 0");
    assert.ok(await redis.exists(`${PREFIX}general:unknown`));
  });

  it("is asked again as soon as there may be room, and not before", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: "2,2",
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_POLICIES: { general: { algorithm: "token-bucket" } },
    });
    const started = performance.now();
    for (let request = 0; request < 2; request++) assert.equal(await ask(limiter, CALLER), 200);
    assert.equal(await ask(limiter, CALLER), 429);
    const { count } = shared.standIn.requests();
    let asked = 0;
    await within((async () => {
      while ((await ask(limiter, CALLER)) !== 200) asked++;
    })(), "an admission");
    assert.ok(asked > 3, `${asked} denials`);
    // From memory, all of them: the next call to the store was the admission.
    assert.equal(shared.standIn.requests().count - count, 1);
    // A token a second, and a clock of whole milliseconds.
    assert.ok(performance.now() - started >= 999);
  });

  it("what changes elsewhere takes effect within ten seconds: a reset, an operator's block lifted, a policy's block lifted", async (t) => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `1,${HOUR_S}`,
      RATE_LIMIT_AUTH: `1,${HOUR_S},${HOUR_S}`,
      // Calls are counted.
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
    })(), `the admission of ${caller}`, 2 * LONGEST_MS)));
    t.diagnostic(`seen after ${took.map(Math.round)} ms, ${shared.standIn.requests().count - count} calls to the store`);
    // Remembered until then, or the rest shows nothing. The decision itself took part of the time.
    for (const ms of took) assert.ok(ms > LONGEST_MS - 1000 && ms < LONGEST_MS + 3000, `${ms} ms`);
    assert.equal(shared.standIn.requests().count - count, 3, "asked once, when it was over");
  });

  it("no denial is remembered where memory decides while Upstash is out", async () => {
    const limiter = await warm({ RATE_LIMIT_GENERAL: `10,${HOUR_S}`, RATE_LIMIT_FALLBACK_FACTOR: "0.1" });
    shared.standIn.faults.set(DOWN);
    assert.equal(await ask(limiter, CALLER), 200);
    assert.equal(await ask(limiter, CALLER), 429);
    shared.standIn.faults.clear();
    // Two more commands than usual: what memory admitted is counted as well.
    assert.equal(await shared.costOf(limiter), "200 6 1");
  });

  it("the denial that is remembered is the denial that was given", async () => {
    const limiter = await warm({ RATE_LIMIT_GENERAL: `1,${HOUR_S}` });
    const get = () => send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
    await get();
    const [given, remembered] = [await get(), await get()];
    assert.equal(given.status, 429);
    const strip = ({ status, headers: { date, "retry-after": wait, ...headers }, ...rest }) => {
      const { retryAfter, message, ...body } = rest.json();
      return { status, headers: { ...headers, "content-length": undefined }, body, same: Number(wait) === retryAfter };
    };
    assert.deepEqual(strip(remembered), strip(given));
  });
});

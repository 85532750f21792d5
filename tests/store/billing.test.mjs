/**
 * What a decision costs: commands billed, counted by a real Redis, scripts' own included, and HTTP requests.
 */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { HOUR_S } from "../harness/fixtures.mjs";
import { PREFIX, ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";

describe("billed commands and round trips", () => {
  let shared, redis;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  after(async () => {
    await redis?.destroy();
    await shared?.stop();
  });
  beforeEach(() => shared.reset());

  const warm = (vars) => shared.warm(vars);

  it("the first decision loads the script, and no later one does", async () => {
    const limiter = await shared.limiter({ RATE_LIMIT_IP: "off" });
    assert.match(await shared.costOf(limiter), /^200 \d+ 2$/);
    const sent = shared.standIn.requests().last.map(({ commands }) => commands[0][0]);
    assert.deepEqual(sent, ["EVALSHA", "EVAL"]);
    for (let i = 0; i < 5; i++) assert.match(await shared.costOf(limiter), /^200 \d+ 1$/);
  });

  it("one quota is 3 commands in one request", async () => {
    const limiter = await warm({ RATE_LIMIT_IP: "off" });
    assert.equal(await shared.costOf(limiter), "200 3 1");
  });

  it("two quotas are 4", async () => {
    const limiter = await warm({});
    assert.equal(await shared.costOf(limiter), "200 4 1");
  });

  it("a denial is 2, and nothing once it is remembered", async () => {
    const vars = { RATE_LIMIT_GENERAL: `1,${HOUR_S}` };
    const limiter = await warm(vars);
    await ask(limiter, "192.0.2.1");
    assert.equal(await shared.costOf(limiter), "429 2 1");
    const again = await shared.cost(async () => {
      for (let i = 0; i < 50; i++) assert.equal(await ask(limiter, "192.0.2.1"), 429);
    });
    assert.deepEqual(again, { billed: 0, requests: 0 });
    const other = await shared.limiter(vars);
    assert.equal(await shared.costOf(other), "429 2 1", "another isolate asks for itself");
  });

  it("a denial that sets a block is 3, under the block 2, and nothing once that is remembered", async () => {
    const vars = { RATE_LIMIT_GENERAL: `1,${HOUR_S},${2 * HOUR_S}` };
    const limiter = await warm(vars);
    await ask(limiter, "192.0.2.1");
    assert.equal(await shared.costOf(limiter), "429 3 1");
    assert.equal(await shared.costOf(limiter), "429 0 0");
    const other = await shared.limiter(vars);
    assert.equal(await shared.costOf(other), "429 2 1");
    assert.equal(await shared.costOf(other), "429 0 0");
  });

  it("a denial at one cost is not taken for another's", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `10,${HOUR_S}`,
      RATE_LIMIT_ROUTES: [{ path: "/dear", policies: ["general"], cost: 8 }],
    });
    await ask(limiter, "192.0.2.1", "/dear");
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/dear"), "429 2 1");
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/"), "200 4 1");
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/dear"), "429 0 0");
  });

  it("a shadow quota is one SET more, and none where it would deny", async () => {
    const limiter = await warm({
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_TRIAL: `1,${HOUR_S},60`,
      RATE_LIMIT_POLICIES: { trial: { mode: "shadow" } },
      RATE_LIMIT_ROUTES: [{ path: "/**", policies: ["general", "trial"] }],
    });
    assert.equal(await shared.costOf(limiter), "200 4 1");
    assert.equal(await shared.costOf(limiter), "200 3 1");
  });

  it("a disabled limiter asks for blocks alone", async () => {
    const limiter = await warm({ RATE_LIMIT_ENABLED: false });
    assert.equal(await shared.costOf(limiter), "200 2 1");
  });

  it("an open breaker costs nothing: memory decides", async () => {
    // Refused once, not asked for again for as long as the breaker waits at the longest: here, days.
    const limiter = await shared.limiter({ UPSTASH_REDIS_REST_TOKEN: "refused", REDIS_MAX_RECONNECT_ATTEMPTS: "20" });
    assert.equal(await shared.costOf(limiter), "200 0 1");
    const open = await shared.cost(async () => {
      for (let i = 0; i < 50; i++) assert.equal(await ask(limiter, `192.0.2.${i}`), 200);
    });
    assert.deepEqual(open, { billed: 0, requests: 0 });
  });

  it("health costs nothing", async () => {
    const limiter = await warm({});
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/_limiter/health"), "200 0 0");
  });

  it("keys have their documented names, readable values, and end when they no longer matter", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: "1,60,600",
      RATE_LIMIT_API: "5,60",
      RATE_LIMIT_FIXED: "5,60",
      RATE_LIMIT_POLICIES: { api: { algorithm: "token-bucket", key: "header:X-Api-Key" }, fixed: { algorithm: "fixed-window" } },
      RATE_LIMIT_ROUTES: [{ path: "/api", policies: ["api"] }, { path: "/fixed", policies: ["fixed"] }],
    });
    await shared.standIn.reset();
    await ask(limiter, "2001:db8::1");
    await ask(limiter, "2001:db8::2");
    await ask(limiter, "192.0.2.1", "/fixed");
    await send(limiter.url, { path: "/api", headers: { "CF-Connecting-IP": "192.0.2.1", "X-Api-Key": "* evil\\key" } });
    const caller = "2001:db8::/64";
    /** How much longer a quota's state is kept for clocks that are behind. */
    const behind = 2000;
    const window = 60_000 + behind;
    const expected = [
      [`general:${caller}`, /^sw:1000:\d{13}:\d{10}:0=1$/, window + 1000],
      [`general:${caller}:blocked`, /^\d{13}$/, 600_000],
      [`ip:${caller}`, /^sw:60000:\d{13}:\d{8}:0=1$/, HOUR_S * 1000 + 60_000 + behind],
      ["ip:192.0.2.1", /^sw:60000:\d{13}:\d{8}:(0=2|0=1,1=1)$/, HOUR_S * 1000 + 60_000 + behind],
      ["fixed:192.0.2.1", /^fw:60000:\d{13}:1$/, window],
      ["api:192.0.2.1", /^tb:60000:\d{13}:60000:5$/, 12_000 + behind],
      [/^api:header-[0-9a-f]{32}$/, /^tb:60000:\d{13}:60000:5$/, 12_000 + behind],
    ];
    const keys = await redis.keys("*");
    for (const [name, text, longest] of expected) {
      const key = keys.find((key) => (name instanceof RegExp ? name.test(key.slice(PREFIX.length)) : key === PREFIX + name));
      assert.ok(key, `${name} among ${keys}`);
      assert.match(await redis.get(key), text);
      const left = await redis.pTTL(key);
      assert.ok(left > 0 && left <= longest, `${key} ends in ${left} ms`);
    }
    assert.equal(keys.length, expected.length, `${keys}`);
  });
});

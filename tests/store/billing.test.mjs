/**
 * What a decision costs in billed commands and HTTP requests. A real Redis counts the commands, including those that scripts call.
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

  it("a decision over one quota costs 3 commands in one request", async () => {
    const limiter = await warm({ RATE_LIMIT_IP: "off" });
    assert.equal(await shared.costOf(limiter), "200 3 1");
  });

  it("a decision over two quotas costs 4 commands", async () => {
    const limiter = await warm({});
    assert.equal(await shared.costOf(limiter), "200 4 1");
  });

  it("a denial costs 2 commands, and none once it is remembered", async () => {
    const vars = { RATE_LIMIT_GENERAL: `1,${HOUR_S}` };
    const limiter = await warm(vars);
    await ask(limiter, "192.0.2.1");
    assert.equal(await shared.costOf(limiter), "429 2 1");
    const again = await shared.cost(async () => {
      for (let i = 0; i < 50; i++) assert.equal(await ask(limiter, "192.0.2.1"), 429);
    });
    assert.deepEqual(again, { billed: 0, requests: 0 });
    const other = await shared.limiter(vars);
    assert.equal(await shared.costOf(other), "429 2 1", "another isolate has not remembered the denial");
  });

  it("a denial that sets a block costs 3 commands, a denial by that block 2, and a remembered one none", async () => {
    const vars = { RATE_LIMIT_GENERAL: `1,${HOUR_S},${2 * HOUR_S}` };
    const limiter = await warm(vars);
    await ask(limiter, "192.0.2.1");
    assert.equal(await shared.costOf(limiter), "429 3 1");
    assert.equal(await shared.costOf(limiter), "429 0 0");
    const other = await shared.limiter(vars);
    assert.equal(await shared.costOf(other), "429 2 1");
    assert.equal(await shared.costOf(other), "429 0 0");
  });

  it("a remembered denial at one cost does not deny a request of a lower cost", async () => {
    const limiter = await warm({
      RATE_LIMIT_GENERAL: `10,${HOUR_S}`,
      RATE_LIMIT_ROUTES: [{ path: "/expensive", policies: ["general"], cost: 8 }],
    });
    await ask(limiter, "192.0.2.1", "/expensive");
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/expensive"), "429 2 1");
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/"), "200 4 1");
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/expensive"), "429 0 0");
  });

  it("a shadow quota costs one more SET, and none where it would deny", async () => {
    const limiter = await warm({
      RATE_LIMIT_IP: "off",
      RATE_LIMIT_TRIAL: `1,${HOUR_S},60`,
      RATE_LIMIT_POLICIES: { trial: { mode: "shadow" } },
      RATE_LIMIT_ROUTES: [{ path: "/**", policies: ["general", "trial"] }],
    });
    assert.equal(await shared.costOf(limiter), "200 4 1");
    assert.equal(await shared.costOf(limiter), "200 3 1");
  });

  it("a disabled limiter costs 2 commands, which read blocks", async () => {
    const limiter = await warm({ RATE_LIMIT_ENABLED: false });
    assert.equal(await shared.costOf(limiter), "200 2 1");
  });

  it("an open breaker costs no commands and no requests, because memory decides", async () => {
    // After one refusal the breaker stays open for its longest wait: here, days.
    const limiter = await shared.limiter({ UPSTASH_REDIS_REST_TOKEN: "refused", REDIS_MAX_RECONNECT_ATTEMPTS: "20" });
    assert.equal(await shared.costOf(limiter), "200 0 1");
    const open = await shared.cost(async () => {
      for (let i = 0; i < 50; i++) assert.equal(await ask(limiter, `192.0.2.${i}`), 200);
    });
    assert.deepEqual(open, { billed: 0, requests: 0 });
  });

  it("health costs no commands and no requests", async () => {
    const limiter = await warm({});
    assert.equal(await shared.costOf(limiter, "192.0.2.1", "/_limiter/health"), "200 0 0");
  });

  it("keys have their documented names and readable values, and expire once they no longer matter", async () => {
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
    /** Redis keeps a quota's state this much longer, for isolates whose clocks are behind. */
    const skewMs = 2000;
    const windowMs = 60_000 + skewMs;
    const expected = [
      [`general:${caller}`, /^sw:1000:\d{13}:\d{10}:0=1$/, windowMs + 1000],
      [`general:${caller}:blocked`, /^\d{13}$/, 600_000],
      [`ip:${caller}`, /^sw:60000:\d{13}:\d{8}:0=1$/, HOUR_S * 1000 + 60_000 + skewMs],
      ["ip:192.0.2.1", /^sw:60000:\d{13}:\d{8}:(0=2|0=1,1=1)$/, HOUR_S * 1000 + 60_000 + skewMs],
      ["fixed:192.0.2.1", /^fw:60000:\d{13}:1$/, windowMs],
      ["api:192.0.2.1", /^tb:60000:\d{13}:60000:5$/, 12_000 + skewMs],
      [/^api:header-[0-9a-f]{32}$/, /^tb:60000:\d{13}:60000:5$/, 12_000 + skewMs],
    ];
    const keys = await redis.keys("*");
    for (const [name, text, maxTtlMs] of expected) {
      const key = keys.find((key) => (name instanceof RegExp ? name.test(key.slice(PREFIX.length)) : key === PREFIX + name));
      assert.ok(key, `${name} among ${keys}`);
      assert.match(await redis.get(key), text);
      const ttlMs = await redis.pTTL(key);
      assert.ok(ttlMs > 0 && ttlMs <= maxTtlMs, `${key} expires in ${ttlMs} ms, not within ${maxTtlMs} ms`);
    }
    assert.equal(keys.length, expected.length, `${keys}`);
  });
});

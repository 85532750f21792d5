/** `limiter.redis`. The same suite runs over memory and over a real Redis. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startStandIn } from "../upstash/stand-in.mjs";
import { createLimiter, rejects, variables } from "./harness.mjs";

let standIn;
before(async () => {
  standIn = await startStandIn();
});
after(() => standIn?.stop());

const onRedis = () => ({ UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token, REDIS_TIMEOUT: "30000" });

for (const [name, store] of [["memory", () => ({})], ["Redis", onRedis]]) {
  describe(`limiter.redis over ${name}`, () => {
    const fresh = (vars) => createLimiter({ env: variables({ ...store(), RATE_LIMIT_GENERAL: "5,60", ...vars }) });
    const redisOf = (vars) => fresh(vars).redis;

    it("values can be set, read and deleted", async () => {
      const redis = redisOf();
      assert.equal(await redis.get("a"), null);
      assert.equal(await redis.set("a", "1 ✓ \"'\\"), "OK");
      assert.equal(await redis.get("a"), "1 ✓ \"'\\");
      assert.equal(await redis.set("b", 2), "OK");
      assert.equal(await redis.get("b"), "2");
      assert.equal(await redis.set("empty", ""), "OK");
      assert.equal(await redis.get("empty"), "");
      assert.equal(await redis.del("a", "b", "c"), 2);
      assert.equal(await redis.del(), 0);
      await Promise.all(["k0", "k1500", "k2999"].map((key) => redis.set(key, "1")));
      assert.equal(await redis.del(...Array.from({ length: 3000 }, (_, i) => `k${i}`)), 3);
      assert.equal(await redis.get("a"), null);
    });

    it("a value expires after the time that set or expire gave it", async () => {
      const redis = redisOf();
      await redis.set("short", "x", { ex: 1 });
      await redis.set("long", "x", { ex: 100 });
      await redis.set("later", "x");
      assert.equal(await redis.expire("later", 1), true);
      assert.equal(await redis.expire("absent", 1), false);
      await delay(1100);
      assert.deepEqual(await Promise.all(["short", "later", "long"].map(redis.get)), [null, null, "x"]);
      await redis.set("long", "y");
      assert.equal(await redis.get("long"), "y");
    });

    it("concurrent increments are exact and keep the expiry", async () => {
      const redis = redisOf();
      assert.equal(await redis.incr("n"), 1);
      await redis.expire("n", 1);
      const numbers = await Promise.all(Array.from({ length: 50 }, () => redis.incr("n")));
      assert.deepEqual(numbers.sort((a, b) => a - b), Array.from({ length: 50 }, (_, i) => i + 2));
      await delay(1100);
      assert.equal(await redis.get("n"), null);
      await redis.set("minus", "-3");
      assert.equal(await redis.incr("minus"), -2);
    });

    it("incr refuses a value that is not a number and leaves it unchanged", async () => {
      const redis = redisOf();
      for (const value of ["x", "1.5", "", " 1", "9223372036854775807", "99999999999999999999"]) {
        await redis.set("no", value);
        const error = await rejects(redis.incr("no"), "not_a_number");
        assert.match(error.message, /number/);
        assert.ok(!error.message.includes(value) || value.trim() === "" || value.length < 2, error.message);
        assert.equal(await redis.get("no"), value);
      }
    });

    it("invalid keys, values and options are refused", async () => {
      const redis = redisOf();
      for (const key of ["", "a\nb", "\u0000", "x".repeat(513), "é".repeat(257), undefined, 7, null]) {
        for (const call of [() => redis.get(key), () => redis.set(key, "1"), () => redis.incr(key), () => redis.expire(key, 1), () => redis.del(key)]) await rejects(call(), "bad_key");
      }
      await redis.set("x".repeat(512), "1");
      assert.equal(await redis.get("x".repeat(512)), "1");
      await rejects(redis.set("v", "x".repeat(65_537)), "bad_argument");
      await rejects(redis.set("v", {}), "bad_argument");
      await rejects(redis.set("v", NaN), "bad_argument");
      for (const key of ["\ud800", "a\udfff"]) await rejects(redis.get(key), "bad_key");
      await rejects(redis.set("v", "\ud800"), "bad_argument");
      await rejects(redis.set("v", null), "bad_argument");
      // Options of other clients would have no effect here, so they are refused.
      for (const options of [[{ nx: true }], [{ px: 5 }], [{ EX: 1 }], ["EX", 1], [60], [{ ex: 1 }, 2]]) await rejects(redis.set("v", "1", ...options), "bad_argument");
      assert.equal(await redis.set("unset", "1", null), "OK");
      for (const ex of [0, -1, 1.5, 1e12, "10", NaN, Infinity, null]) {
        await rejects(redis.set("v", "1", { ex }), "bad_argument");
        await rejects(redis.expire("v", ex), "bad_argument");
      }
      assert.equal(await redis.get("v"), null);
    });

    it("an application's keys never reach the limiter's own records", async () => {
      const limiter = fresh({ RATE_LIMIT_GENERAL: "1,60" });
      const { redis } = limiter;
      await limiter.check("general", "192.0.2.1");
      await redis.blockIP("192.0.2.9");
      const names = ["general:192.0.2.1", "blocked:192.0.2.9", "blocked_ips", "blocked_ranges:version", "../general:192.0.2.1", "app/general:192.0.2.1"];
      for (const key of names) assert.equal(await redis.get(key), null, key);
      assert.equal(await redis.del(...names), 0);
      for (const key of names) await redis.set(key, "0");
      assert.equal((await limiter.check("general", "192.0.2.1")).allowed, false);
      assert.equal(await redis.isIPBlocked("192.0.2.9"), true);
    });

    it("addresses and ranges can be blocked and unblocked", async () => {
      const { redis, limit } = (() => {
        const limiter = fresh();
        return { redis: limiter.redis, limit: (address) => limiter.limit(new Request("https://shop.example/"), { address }) };
      })();
      assert.equal(await redis.isIPBlocked("192.0.2.1"), false);
      await redis.blockIP("192.0.2.1", 60, "abuse");
      await redis.blockIP("198.51.100.0/24");
      assert.equal(await redis.isIPBlocked("192.0.2.1"), true);
      assert.equal(await redis.isIPBlocked("198.51.100.77"), true);
      assert.deepEqual([(await limit("192.0.2.1")).blocked, (await limit("198.51.100.77")).blocked, (await limit("192.0.2.2")).blocked], [true, true, false]);
      const listed = (await redis.getBlockedIPs()).sort((a, b) => a.ip.localeCompare(b.ip));
      assert.deepEqual(listed.map(({ ip, by, reason }) => [ip, by, reason]), [["192.0.2.1", "operator", "abuse"], ["198.51.100.0/24", "operator", undefined]]);
      assert.ok(Math.abs(listed[0].until - Date.now() - 60_000) < 10_000 && listed[1].until === undefined);
      assert.equal(await redis.unblockIP("192.0.2.1"), true);
      assert.equal(await redis.unblockIP("192.0.2.1"), false);
      assert.equal((await limit("192.0.2.1")).allowed, true);
      await rejects(redis.blockIP("2a06:98c0:3600::103"), "refused");
      for (const seconds of [NaN, Infinity, null, "60", 0]) await rejects(redis.blockIP("192.0.2.3", seconds), "bad_argument");
      assert.equal(await redis.isIPBlocked("192.0.2.3"), false);
    });

    it("getBlockedIPs returns more blocks than one page holds", async () => {
      const redis = redisOf();
      const ips = Array.from({ length: 1005 }, (_, i) => `10.0.${i >> 8}.${i & 255}`);
      for (let i = 0; i < ips.length; i += 50) await Promise.all(ips.slice(i, i + 50).map((ip) => redis.blockIP(ip, 600)));
      assert.deepEqual((await redis.getBlockedIPs()).map(({ ip }) => ip).sort(), ips.sort());
    });

    it("events of the limiter and of the application can be read and cleared", async () => {
      const limiter = fresh({ RATE_LIMIT_GENERAL: "1,60" });
      const { redis } = limiter;
      for (let i = 0; i < 3; i += 1) await limiter.limit(new Request("https://shop.example/p"), { address: "192.0.2.1" });
      await redis.logRateLimitEvent({ identifier: "192.0.2.5", policy: "general", method: "POST", path: "/own" });
      const events = await redis.getRateLimitEvents();
      assert.deepEqual(events.map(({ kind }) => kind).sort(), ["denied", "reported"]);
      const reported = events.find(({ kind }) => kind === "reported");
      assert.deepEqual([reported.path, reported.method, reported.policy], ["/own", "POST", "general"]);
      assert.equal((await redis.getRateLimitEvents(1)).length, 1);
      const [first] = await redis.getSuspiciousIPs();
      assert.deepEqual(first, { ip: "192.0.2.1", denied: 2, policies: { general: 2 } });
      assert.equal((await redis.getSuspiciousIPs()).length, 1, "a reported event should not make a caller suspicious");
      assert.equal(await redis.clearOldRateLimitEvents(3_600_000), 0);
      await delay(5);
      assert.equal(await redis.clearOldRateLimitEvents(0), 2);
      assert.deepEqual(await redis.getRateLimitEvents(), []);
    });
  });
}

describe("limiter.redis while Redis fails", () => {
  it("every call is rejected with the reason and without the token", async () => {
    const down = { UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1", UPSTASH_REDIS_REST_TOKEN: "a-token-of-this-test", REDIS_RETRY_COUNT: "0" };
    const { redis } = createLimiter({ env: variables(down) });
    for (const call of [() => redis.get("a"), () => redis.set("a", "1"), () => redis.incr("a"), () => redis.del("a"), () => redis.blockIP("192.0.2.1"), () => redis.getRateLimitEvents()]) {
      const error = await rejects(call(), "store_unavailable");
      assert.ok(!error.message.includes("a-token-of-this-test") && error.message.length > 20, error.message);
    }
  });

  it("incr increments at most once even if the answer is lost", async () => {
    const prefix = variables();
    const { redis } = createLimiter({ env: { ...prefix, ...onRedis(), REDIS_TIMEOUT: "300", REDIS_RETRY_COUNT: "3" } });
    await redis.incr("n");
    standIn.faults.set({ kind: "reset", after: true, times: 1 });
    await redis.incr("n").catch(({ code }) => assert.equal(code, "store_unavailable"));
    assert.equal(await redis.get("n"), "2");
  });
});

/** Upstash's own clients, unmodified, against the stand-in. */

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { Ratelimit } from "@upstash/ratelimit";
import { Redis } from "@upstash/redis";
import { startStandIn } from "./stand-in.mjs";

let standIn, redis;
before(async () => {
  standIn = await startStandIn();
  redis = new Redis({ url: standIn.url, token: standIn.token });
});
beforeEach(() => standIn.reset());
after(() => standIn.stop());

test("set and get work, with expiry and with the SDK's JSON", async () => {
  assert.equal(await redis.set("k", "v", { ex: 100 }), "OK");
  assert.equal(await redis.get("k"), "v");
  assert.equal(await redis.ttl("k"), 100);
  assert.equal(await redis.set("k", "w", { nx: true }), null);
  assert.equal(await redis.get("none"), null);
  await redis.set("json", { a: [1, "ü", null], b: { c: true } });
  assert.deepEqual(await redis.get("json"), { a: [1, "ü", null], b: { c: true } });
  await redis.set("n", 41);
  assert.equal(await redis.incr("n"), 42);
  assert.equal(await redis.get("n"), 42);
  assert.equal(standIn.requests().last[0].headers["upstash-encoding"], "base64");
});

test("text that needs base64, and the value OK, survive a round trip", async () => {
  for (const text of ["ü€😀", "line\nbreak\r\n\"quoted\" \\", "\u0000\u0001\u007f", " ", "OK", "T0s="]) {
    await redis.set("k", text);
    assert.equal(await redis.get("k"), text);
    assert.deepEqual(await redis.mget("k", "none"), [text, null]);
  }
});

test("the SDK works without base64 as well", async () => {
  const plain = new Redis({ url: standIn.url, token: standIn.token, responseEncoding: false });
  await plain.set("k", "ü€😀");
  assert.equal(await plain.get("k"), "ü€😀");
  assert.equal(standIn.requests().last[0].headers["upstash-encoding"], undefined);
});

test("hashes, sorted sets, sets and scans work", async () => {
  assert.equal(await redis.hset("h", { a: 1, b: "two", c: { three: 3 } }), 3);
  assert.deepEqual(await redis.hgetall("h"), { a: 1, b: "two", c: { three: 3 } });
  assert.equal(await redis.zadd("z", { score: 2, member: "b" }, { score: 1.5, member: "a" }), 2);
  assert.deepEqual(await redis.zrange("z", 0, -1, { withScores: true }), ["a", 1.5, "b", 2]);
  assert.equal(await redis.zscore("z", "a"), 1.5);
  assert.equal(await redis.sadd("s", "x", "y"), 2);
  const [cursor, keys] = await redis.scan(0, { match: "*", count: 100 });
  assert.equal(String(cursor), "0");
  assert.deepEqual(keys.sort(), ["h", "s", "z"]);
});

test("a pipeline works, and its errors keep their places", async () => {
  assert.deepEqual(await redis.pipeline().set("k", "v").get("k").incr("n").exec(), ["OK", "v", 1]);
  const kept = await redis.pipeline().incr("k").get("k").exec({ keepErrors: true });
  assert.equal(kept[0].error, "ERR value is not an integer or out of range");
  assert.equal(kept[1].result, "v");
  assert.equal(standIn.requests().last[0].mode, "pipeline");
});

test("the SDK pipelines concurrent calls", async () => {
  assert.deepEqual(await Promise.all([redis.set("a", 1), redis.incr("b"), redis.incr("b")]), ["OK", 1, 2]);
  assert.equal(standIn.requests().count, 1);
});

test("concurrent transactions work", async () => {
  const names = Array.from({ length: 20 }, (_, i) => `k${i}`);
  const results = await Promise.all(names.map((name) => redis.multi().set(name, "foo").incr("n").get(name).exec()));
  assert.deepEqual(results.map(([, n]) => n).sort((a, b) => a - b), names.map((_, i) => i + 1));
  assert.ok(results.every(([ok, , value]) => ok === "OK" && value === "foo"));
  assert.ok(standIn.requests().last.every(({ mode }) => mode === "multi-exec"));
});

test("scripts work, and createScript falls back from EVALSHA to EVAL", async () => {
  const text = "#!lua flags=allow-key-locking\nreturn {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}";
  assert.deepEqual(await redis.eval(text, ["a"], ["x"]), ["a", "x", 1]);
  const sha = await redis.scriptLoad(text);
  assert.deepEqual(await redis.evalsha(sha, ["a"], ["x"]), ["a", "x", 2]);
  assert.deepEqual(await redis.scriptExists(sha), [1]);
  await redis.scriptFlush();
  const script = redis.createScript(text);
  assert.deepEqual(await script.exec(["a"], ["x"]), ["a", "x", 3]);
  assert.deepEqual(await script.exec(["a"], ["x"]), ["a", "x", 4]);
  const sent = standIn.requests().last.slice(-3).map(({ commands }) => commands[0][0].toUpperCase());
  assert.deepEqual(sent, ["EVALSHA", "EVAL", "EVALSHA"]);
});

test("errors arrive as the SDK's UpstashError", async () => {
  await redis.set("k", "v");
  await assert.rejects(redis.incr("k"), { name: "UpstashError", message: /ERR value is not an integer/ });
  const wrong = new Redis({ url: standIn.url, token: "wrong" });
  await assert.rejects(wrong.get("k"), { name: "UpstashError", message: /WRONGPASS/ });
  standIn.faults.set({ kind: "html", status: 502 });
  await assert.rejects(redis.get("k"), { name: "UpstashJSONParseError" });
});

// Windows are aligned to the epoch. These are so long that no run meets the end of one.
const LIMITERS = {
  fixedWindow: Ratelimit.fixedWindow(10, "3650 d"),
  slidingWindow: Ratelimit.slidingWindow(10, "3650 d"),
  tokenBucket: Ratelimit.tokenBucket(1, "3650 d", 10),
};

for (const [name, limiter] of Object.entries(LIMITERS)) {
  test(`@upstash/ratelimit's ${name} admits 10 of 40 concurrent requests to two instances, and 10 more after a reset`, async () => {
    const instances = [0, 1].map(() => new Ratelimit({ redis, limiter, analytics: false, ephemeralCache: false }));
    const admitted = async () => {
      const decisions = await Promise.all(Array.from({ length: 40 }, (_, i) => instances[i % 2].limit("caller")));
      await Promise.all(decisions.map(({ pending }) => pending));
      assert.ok(decisions.every(({ limit }) => limit === 10));
      return decisions.filter(({ success }) => success).length;
    };
    assert.equal(await admitted(), 10);
    assert.equal(await admitted(), 0);
    assert.equal((await instances[0].getRemaining("caller")).remaining, 0);
    assert.equal((await instances[0].limit("another")).success, true);
    await instances[0].resetUsedTokens("caller");
    assert.equal(await admitted(), 10);
  });
}

/** What a full Redis does to the limiter's keys under the two eviction policies that docs/redis.md recommends. */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { ADMIN_TOKEN, blocked, good, isBlocked, refused } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { PREFIX, ask, startShared } from "../harness/limited.mjs";

describe("a full Redis", () => {
  let shared, redis;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  afterEach(async () => {
    await redis.configSet("maxmemory", "0");
    await shared.reset();
  });
  after(() => shared?.stop());

  const VARS = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `5,${HOUR_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_FALLBACK_FACTOR: "1", RATE_LIMIT_SHORT: "5,60", RATE_LIMIT_ROUTES: [{ path: "/short", policies: ["short"] }] };

  /**
   * Writes a block without an end, a blocked range, and a caller's quotas of an hour and of a minute. Then writes short-lived keys
   * beyond `maxmemory`.
   */
  async function fill(policy) {
    const limiter = await shared.warm(VARS);
    await good(limiter, "PUT", blocked("198.51.100.1"), { json: {} });
    await good(limiter, "PUT", blocked("203.0.113.0/24"), { json: {} });
    for (const path of ["/", "/short"]) assert.equal(await ask(limiter, CALLER, path), 200);
    await redis.configResetStat();
    const used = Number(/^used_memory:(\d+)/m.exec(await redis.info("memory"))[1]);
    await redis.configSet("maxmemory-policy", policy);
    await redis.configSet("maxmemory", String(used + 2 * 1024 ** 2));
    let error;
    for (let batch = 0; batch < 100 && !error; batch++) {
      const writes = Array.from({ length: 200 }, (_, number) => redis.set(`${PREFIX}short:10.0.${batch}.${number}`, "x".repeat(200), { PX: 62_000 }));
      const results = await Promise.allSettled(writes);
      error = results.find(({ status }) => status === "rejected")?.reason.message;
    }
    const evicted = Number(/^evicted_keys:(\d+)/m.exec(await redis.info("stats"))[1]);
    return { limiter, error, evicted };
  }

  it("volatile-ttl evicts short quotas and keeps an hour's quota, blocks without an end and ranges", async () => {
    const { evicted, error } = await fill("volatile-ttl");
    assert.equal(error, undefined);
    assert.ok(evicted > 1000, `Redis evicted ${evicted} keys`);
    for (const key of ["blocked:198.51.100.1", "blocked_ips", "blocked_ranges", "blocked_ranges:version", `general:${CALLER}`]) {
      assert.equal(await redis.exists(PREFIX + key), 1, key);
    }
    // Another isolate remembers nothing, so it reads these blocks from Redis.
    const other = await shared.limiter(VARS);
    for (const caller of ["198.51.100.1", "203.0.113.9"]) await isBlocked(other, caller, null);
    assert.equal(await ask(other, "192.0.2.9", "/short"), 200);
  });

  it("noeviction keeps every key: memory decides, blocks hold and can be read, and other calls answer 503", async () => {
    const { limiter, evicted, error } = await fill("noeviction");
    assert.match(error, /^OOM/);
    assert.equal(evicted, 0);
    for (const status of [200, 200, 200, 200, 200, 429]) assert.equal(await ask(limiter, "192.0.2.9"), status);
    assert.equal((await good(limiter, "GET", blocked("198.51.100.1"))).blocked, true, "reading one block is a single command that only reads");
    // A full Redis runs no script, not even one that only reads.
    await refused(503, limiter, "GET", "events");
    for (const caller of ["198.51.100.1", "203.0.113.9"]) await isBlocked(limiter, caller, null);
    for (const key of ["blocked:198.51.100.1", "blocked_ranges", `short:${CALLER}`]) assert.equal(await redis.exists(PREFIX + key), 1, key);
  });
});

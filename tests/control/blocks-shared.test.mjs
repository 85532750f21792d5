/** Blocks in a shared Redis: they are in force in other processes and during an outage, and add no cost to decisions. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, ELSEWHERE_MS, blocked, control, eventually, good, has, isAdmitted, isBlocked, refused } from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { DOWN, PREFIX, ask, startShared } from "../harness/limited.mjs";

/** A target, and two callers that it covers. */
const TARGETS = [
  ["192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"]],
  ["2001:db8:0:1::/64", ["2001:db8:0:1::5", "2001:db8:0:1::6"]],
  ["10.0.0.0/8", ["10.1.1.1", "10.2.2.2"]],
  ["2001:db8:ff00::/40", ["2001:db8:ff00::1", "2001:db8:ff01::1"]],
];

describe("blocks that processes share", () => {
  let shared, standIn, redis;
  before(async () => {
    shared = await startShared();
    ({ standIn } = shared);
    redis = await standIn.redis.client();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  const start = (vars) => shared.warm({ ADMIN_TOKEN, RATE_LIMIT_IP: "off", REDIS_MAX_RECONNECT_ATTEMPTS: 0, ...vars });
  const two = (vars) => Promise.all([start(vars), start(vars)]);
  const block = async (limiter, json = {}) => {
    for (const [target] of TARGETS) await good(limiter, "PUT", blocked(target), { json });
  };

  it("another process enforces, shows and lifts the blocks", async () => {
    const [here, there] = await two();
    // The other process has already decided about these callers, and its copy of the blocks is empty.
    for (const [, callers] of TARGETS) for (const caller of callers) await isAdmitted(there, caller);
    await block(here, { seconds: 6000, reason: "elsewhere" });
    for (const [target, callers] of TARGETS) {
      for (const caller of callers) await eventually(() => isBlocked(there, caller, 6000));
      await isAdmitted(there, "192.0.2.2");
      assert.deepEqual(await good(there, "GET", blocked(target)), await good(here, "GET", blocked(target)));
      has(await good(there, "GET", blocked(target)), { target, blocked: true, reason: "elsewhere" });
    }
    assert.deepEqual((await good(there, "GET", "blocked")).blocked.map(({ target }) => target).sort(), TARGETS.map(([target]) => target).sort());

    for (const [target] of TARGETS) has(await good(here, "DELETE", blocked(target)), { lifted: true });
    const from = performance.now();
    await Promise.all(TARGETS.flatMap(([, callers]) => callers.map(async (caller) => {
      // Within ten seconds, plus two for the answer and for a busy machine.
      await eventually(() => isAdmitted(there, caller), ELSEWHERE_MS + 2000);
      assert.ok(performance.now() - from < ELSEWHERE_MS + 2000);
    })));
  });

  it("a block of an address is in force at its first request in another process", async () => {
    const [here, there] = await two();
    await good(here, "PUT", blocked("192.0.2.1"));
    await isBlocked(there, "192.0.2.1", null);
    await good(there, "PUT", blocked("2001:db8::1"), { json: { seconds: 60 } });
    await isBlocked(here, "2001:db8::2", 60);
  });

  it("a process that starts later enforces the blocks", async () => {
    const here = await start();
    await block(here);
    const late = await start();
    for (const [, callers] of TARGETS) for (const caller of callers) await eventually(() => isBlocked(late, caller, null));
  });

  it("a block has the documented keys in Redis, and they end with it", async () => {
    const here = await start();
    await good(here, "PUT", blocked("192.0.2.1"), { json: { seconds: 600, reason: "x" } });
    await good(here, "PUT", blocked("2001:db8::1"));
    const left = await redis.pTTL(`${PREFIX}blocked:192.0.2.1`);
    assert.ok(left > 590_000 && left <= 600_000, `the key expires in ${left} ms`);
    assert.equal(await redis.pTTL(`${PREFIX}blocked:2001:db8::/64`), -1);
    assert.deepEqual((await redis.zRange(`${PREFIX}blocked_ips`, 0, -1)).sort(), ["192.0.2.1", "2001:db8::/64"]);
    await good(here, "DELETE", blocked("192.0.2.1"));
    assert.equal(await redis.exists(`${PREFIX}blocked:192.0.2.1`), 0);
    assert.deepEqual(await redis.zRange(`${PREFIX}blocked_ips`, 0, -1), ["2001:db8::/64"]);
  });

  it("both processes enforce the blocks from their last copy during an outage, and from Redis after it", async () => {
    const [here, there] = await two({ RATE_LIMIT_FALLBACK_FACTOR: "1" });
    await block(here);
    for (const [, [caller]] of TARGETS) await eventually(() => isBlocked(there, caller, null));
    standIn.faults.set(DOWN);
    for (let round = 0; round < 3; round++) {
      for (const [target, [known, other]] of TARGETS) {
        for (const limiter of [here, there]) {
          await isBlocked(limiter, known, null);
          // A caller of the same range, or another address of the same caller, for which this process has not decided before.
          await isBlocked(limiter, other, null);
        }
        await isAdmitted(there, `203.0.113.${round}`, `/?${target}`);
      }
    }
    // A block that is set now is in force in this process alone, and the answer says so. The list cannot be read.
    const { message } = (await refused(503, here, "PUT", blocked("192.0.2.9"))).json();
    assert.match(message, /only one isolate enforces the block\. Send the request again/);
    await isBlocked(here, "192.0.2.9", null);
    await isAdmitted(there, "192.0.2.9");
    await refused(503, here, "GET", "blocked");

    standIn.faults.clear();
    for (const [, callers] of TARGETS) for (const caller of callers) await isBlocked(there, caller, null);
    await eventually(async () => assert.equal((await control(here, "GET", "blocked")).status, 200));
    has(await good(here, "DELETE", blocked("10.0.0.0/8")), { lifted: true });
    await eventually(() => isAdmitted(there, "10.1.1.1"), ELSEWHERE_MS + 2000);
  });

  it("unchanged blocks add nothing to a decision: one quota costs 3 commands and one round trip", async () => {
    const here = await start({ RATE_LIMIT_GENERAL: `1000,${HOUR_S}` });
    assert.equal(await shared.costOf(here, "192.0.2.2"), "200 3 1", "while nobody is blocked");
    await block(here);
    const late = await start({ RATE_LIMIT_GENERAL: `1000,${HOUR_S}` });
    for (const limiter of [here, late]) {
      // The isolate may have to load its copy of the blocks once.
      await eventually(async () => assert.equal(await shared.costOf(limiter, "192.0.2.2"), "200 3 1"));
      for (let i = 0; i < 20; i++) assert.equal(await shared.costOf(limiter, `192.0.2.${10 + i}`), "200 3 1");
    }
    for (const limiter of [here, late]) for (const [, [caller]] of TARGETS) await isBlocked(limiter, caller, null);
  });

  it("blocks that two operators set at once are all listed and in force", async () => {
    const limiters = await two();
    const targets = Array.from({ length: 40 }, (_, i) => (i % 2 ? `10.${i}.0.0/16` : `192.0.2.${i}`));
    await Promise.all(targets.map((target, i) => good(limiters[(i >> 1) % 2], "PUT", blocked(target))));
    for (const limiter of limiters) {
      assert.deepEqual((await good(limiter, "GET", "blocked")).blocked.map(({ target }) => target).sort(), [...targets].sort());
      for (const target of targets) await eventually(() => isBlocked(limiter, target.replace("0.0/16", "7.7"), null));
    }
  });

  it("blocks outlast a change of IPV6_PREFIX, and the listed target lifts them", async () => {
    const before = await start();
    for (const target of ["2001:db8:0:107::/64", "192.0.2.1"]) await good(before, "PUT", blocked(target));
    const after = await start({ IPV6_PREFIX: "56" });
    await eventually(() => isBlocked(after, "2001:db8:0:107::5", null));
    await isAdmitted(after, "2001:db8:0:207::5");
    has(await good(after, "GET", blocked("2001:db8:0:107::/64")), { blocked: true, by: "operator" });
    has(await good(after, "DELETE", blocked("2001:db8:0:107::/64")), { lifted: true });
    await isAdmitted(after, "2001:db8:0:107::5");
    assert.deepEqual((await good(after, "GET", "blocked")).blocked.map(({ target }) => target), ["192.0.2.1"]);
  });

  it("another process lists and lifts a policy's block", async () => {
    const [here, there] = await two({ RATE_LIMIT_AUTH: "2,5,600", RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }] });
    for (const status of [200, 200, 429]) assert.equal(await ask(here, "192.0.2.1", "/auth"), status);
    await isBlocked(there, "192.0.2.1", 600, "/auth");
    const { policies } = await good(there, "GET", "blocked");
    assert.deepEqual(policies.map(({ policy, caller }) => [policy, caller]), [["auth", "192.0.2.1"]]);
    // No request is sent meanwhile, and reading usage consumes nothing. The quota refills, and only the block is left.
    await eventually(async () => has(await good(there, "GET", "usage/auth/192.0.2.1"), { used: 0 }));
    has(await good(there, "DELETE", blocked("192.0.2.1")), { lifted: false, policies_lifted: 1 });
    await isAdmitted(there, "192.0.2.1", "/auth");
    await eventually(() => isAdmitted(here, "192.0.2.1", "/auth"), ELSEWHERE_MS + 2000);
    assert.deepEqual((await good(here, "GET", "blocked")).policies, []);
  });
});

/** A caller's usage of a quota, read without consuming and reset for that caller alone, and the list of policies. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import {
  ADMIN_TOKEN, ELSEWHERE_MS, MODES, control, eventually, get, good, has, isAdmitted, isBlocked, isNear, refused, usage,
} from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { PREFIX, WINDOW, ask, startShared } from "../harness/limited.mjs";

describe("usage", () => {
  let shared, redis;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  /** The states of all quotas and the blocks of all policies in Redis. Other records, which change at any time, are left out. */
  async function states() {
    const keys = (await redis.keys("*")).filter((key) => /^t:(general|auth|all|ip|named):/.test(key)).sort();
    return Object.fromEntries(await Promise.all(keys.map(async (key) => [key, await redis.get(key)])));
  }

  for (const [mode, { vars: own, scope }] of Object.entries(MODES)) {
    const start = (vars) => shared.limiter({
      ADMIN_TOKEN, RATE_LIMIT_GENERAL: `10,${WINDOW}`, RATE_LIMIT_IP: "off", RATE_LIMIT_AUTH: "2,60,600",
      RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }], ...own, ...vars,
    });
    const read = (limiter, policy, caller) => good(limiter, "GET", usage(policy, caller));

    describe(`in ${mode}`, () => {
      for (const algorithm of ["sliding-window", "token-bucket", "fixed-window"]) {
        it(`is exact with the algorithm ${algorithm}, and reading it consumes nothing`, async () => {
          const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } } });
          has(await read(limiter, "general", CALLER), { scope, policy: "general", caller: CALLER, limit: 10, used: 0, remaining: 10, blocked_until: null, retry_at: null });
          for (let request = 0; request < 3; request++) await isAdmitted(limiter, CALLER);
          const used = await read(limiter, "general", CALLER);
          assert.deepEqual(Object.keys(used).sort(), ["blocked_until", "caller", "limit", "policy", "remaining", "reset", "retry_at", "scope", "used"]);
          has(used, { scope, policy: "general", caller: CALLER, limit: 10, used: 3, remaining: 7, blocked_until: null, retry_at: null });
          assert.ok(Number.isInteger(used.reset) && used.reset > Date.now(), `reset is ${used.reset}, not a later time in ms`);
          const before = await states();
          for (let look = 0; look < 20; look++) assert.deepEqual(await read(limiter, "general", CALLER), used);
          assert.deepEqual(await states(), before);
          const answer = await get(limiter, CALLER);
          assert.equal(answer.headers["x-ratelimit-remaining"], "6");
          has(await read(limiter, "general", "192.0.2.2"), { used: 0, remaining: 10 });
          while ((await ask(limiter, CALLER)) === 200);
          const full = await read(limiter, "general", CALLER);
          has(full, { used: 10, remaining: 0, blocked_until: null });
          assert.ok(Number.isInteger(full.retry_at) && full.retry_at > Date.now(), `retry_at is ${full.retry_at}, not a later time in ms`);
        });
      }

      it("reports the policy's own block, and not another policy's", async () => {
        const limiter = await start();
        for (const status of [200, 200, 429]) assert.equal(await ask(limiter, "2001:db8::5", "/auth"), status);
        const used = await read(limiter, "auth", "2001:db8::6");
        has(used, { caller: "2001:db8::/64", policy: "auth", limit: 2, used: 2, remaining: 0 });
        isNear(used.blocked_until, 600_000);
        assert.ok(used.retry_at >= used.blocked_until, JSON.stringify(used));
        has(await read(limiter, "general", "2001:db8::5"), { used: 0, blocked_until: null, retry_at: null });
      });

      it("is reset for one caller alone, and its block is lifted, at once", async () => {
        const limiter = await start();
        const callers = [CALLER, "192.0.2.2", "192.0.2.10", "2001:db8::1"];
        for (const caller of callers) {
          for (const status of [200, 200, 429]) assert.equal(await ask(limiter, caller, "/auth"), status);
          for (let request = 0; request < 4; request++) await isAdmitted(limiter, caller);
        }
        const before = await states();
        for (const caller of [CALLER, "2001:db8::1"]) {
          const name = caller === CALLER ? caller : "2001:db8::/64";
          assert.deepEqual(await good(limiter, "DELETE", usage("auth", caller)), { scope, policy: "auth", caller: name, reset: true });
          has(await read(limiter, "auth", caller), { used: 0, remaining: 2, blocked_until: null, retry_at: null });
          for (const key of [`auth:${name}`, `auth:${name}:blocked`]) delete before[PREFIX + key];
        }
        assert.deepEqual(await states(), before, "the reset changed another caller's state");
        for (const caller of ["192.0.2.2", "192.0.2.10"]) await isBlocked(limiter, caller, 600, "/auth");
        for (const caller of callers) has(await read(limiter, "general", caller), { used: 4 });
        for (const status of [200, 200, 429]) assert.equal(await ask(limiter, CALLER, "/auth"), status);
        // A caller without any state can be reset, too.
        has(await good(limiter, "DELETE", usage("general", "192.0.2.99")), { reset: true });
      });

      it("can be read for callers that are not addresses", async () => {
        const limiter = await start({
          RATE_LIMIT_ALL: `10,${WINDOW}`,
          RATE_LIMIT_POLICIES: { all: { key: "global" } },
          RATE_LIMIT_ROUTES: [{ path: "/all", policies: ["all"] }],
        });
        await isAdmitted(limiter, "garbage");
        await isAdmitted(limiter, CALLER, "/all");
        await isAdmitted(limiter, "192.0.2.2", "/all");
        await good(limiter, "POST", "check", { json: { policy: "general", identifier: "alice" } });
        const cases = [["general", "unknown", 1], ["all", "global", 2], ["general", "id:alice", 1], ["general", "user:alice", 0], ["general", `user-${"0a".repeat(16)}`, 0]];
        for (const [policy, caller, used] of cases) has(await read(limiter, policy, caller), { used, remaining: 10 - used });
        for (const [policy, caller] of cases) {
          has(await good(limiter, "DELETE", usage(policy, caller)), { policy, reset: true });
          has(await read(limiter, policy, caller), { used: 0 });
        }
      });

      it("of an unknown kind of caller, such as a pattern, is answered 400, and nobody is reset", async () => {
        const limiter = await start();
        for (const caller of [CALLER, "192.0.2.2"]) for (const status of [200, 200, 429]) assert.equal(await ask(limiter, caller, "/auth"), status);
        const before = await states();
        for (const caller of [
          "*", "%2a", "%2A", "192.0.2.%2a", "192.0.2.%3f", "%5b1%5d", "**", "nobody", "192.0.2.1%3ablocked", "192.0.2", "user-xyz", `user-${"0".repeat(31)}`, `user-${"z".repeat(32)}`,
          "192.0.2.1%00", "%0a", "%c3%a9", "192.0.2.1,192.0.2.2",
        ]) for (const method of ["GET", "DELETE"]) await refused(400, limiter, method, `usage/auth/${caller}`);
        for (const path of ["usage/auth", "usage", "usage/*/192.0.2.1", "usage/%2a/192.0.2.1", "usage/nosuch/192.0.2.1", "usage/auth/192.0.2.1/x"]) {
          const { status } = await control(limiter, "DELETE", path);
          assert.ok([400, 404].includes(status), `${path}: ${status}`);
        }
        assert.deepEqual(await states(), before);
        for (const caller of [CALLER, "192.0.2.2"]) has(await read(limiter, "auth", caller), { used: 2, remaining: 0 });
      });

      it("GET /_limiter/policies lists the policies in force", async () => {
        const limiter = await start({
          RATE_LIMIT_SHY: "7,30",
          RATE_LIMIT_POLICIES: {
            general: { algorithm: "token-bucket", burst: 5, lease: 3, on_store_failure: "deny" }, shy: { mode: "shadow", key: "global" },
          },
          RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth", "shy"] }],
          RATE_LIMIT_IP: `1000,${HOUR_S}`,
        });
        const { enabled, policies } = await good(limiter, "GET", "policies");
        assert.equal(enabled, true);
        const of = (name) => policies.find((policy) => policy.name === name);
        const fields = ["algorithm", "always", "authenticated", "block_seconds", "burst", "key", "lease", "limit", "mode", "name", "on_store_failure", "window_seconds"];
        for (const policy of policies) assert.deepEqual(Object.keys(policy).sort(), fields);
        has(of("general"), { algorithm: "token-bucket", limit: 10, window_seconds: WINDOW, burst: 5, key: "ip", mode: "enforce", on_store_failure: "deny", lease: 3, always: false });
        has(of("shy"), { algorithm: "sliding-window", limit: 7, window_seconds: 30, key: "global", mode: "shadow", on_store_failure: "memory", always: false });
        has(of("auth"), { limit: 2, window_seconds: 60, block_seconds: 600 });
        has(of("ip"), { limit: 1000, window_seconds: HOUR_S, always: true });
        const disabled = await start({ RATE_LIMIT_ENABLED: "false" });
        assert.equal((await good(disabled, "GET", "policies")).enabled, false);
      });
    });
  }

  it("is the same in all processes on one Redis, and a reset takes effect in all of them", async () => {
    const vars = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `2,${WINDOW}`, RATE_LIMIT_IP: "off", RATE_LIMIT_AUTH: `1,${WINDOW},600`, RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }] };
    const [here, there] = await Promise.all([shared.warm(vars), shared.warm(vars)]);
    for (const [path, statuses] of [["/", [200, 200, 429]], ["/auth", [200, 429]]]) {
      for (const status of statuses) assert.equal(await ask(there, CALLER, path), status);
    }
    has(await good(here, "GET", usage("general", CALLER)), { used: 2 });
    assert.deepEqual(await good(here, "GET", usage("auth", CALLER)), await good(there, "GET", usage("auth", CALLER)));
    for (const policy of ["general", "auth"]) has(await good(here, "DELETE", usage(policy, CALLER)), { reset: true });
    await isAdmitted(here, CALLER);
    await Promise.all(["/", "/auth"].map((path) => eventually(() => isAdmitted(there, CALLER, path), ELSEWHERE_MS + 2000)));
  });
});

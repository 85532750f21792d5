/** `POST /_limiter/check`: decisions for servers that limit within their own routes. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, CHECK_TOKEN, MODES, blocked, control, get, good, has, isAdmitted, isNear, refused, usage } from "../harness/control.mjs";
import { WINDOW, ask, startShared } from "../harness/limited.mjs";

const FIELDS = ["allowed", "blocked", "limit", "policy", "remaining", "reset", "results", "retry_after"];

describe("POST /_limiter/check", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  for (const [mode, { vars: own }] of Object.entries(MODES)) {
    const start = (vars) => shared.limiter({
      ADMIN_TOKEN, CHECK_TOKEN, RATE_LIMIT_GENERAL: `10,${WINDOW}`, RATE_LIMIT_AUTH: `2,${WINDOW},600`, RATE_LIMIT_IP: "off",
      RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }], ...own, ...vars,
    });
    const check = (limiter, json) => good(limiter, "POST", "check", { json, token: CHECK_TOKEN });
    const used = async (limiter, policy, caller) => (await good(limiter, "GET", usage(policy, caller))).used;

    describe(`in ${mode}`, () => {
      it("admits up to the limit, and then says when to retry", async () => {
        const limiter = await start();
        for (let left = 9; left >= 0; left--) {
          const answer = await check(limiter, { policy: "general", identifier: "alice" });
          assert.deepEqual(Object.keys(answer).sort(), FIELDS);
          has(answer, { allowed: true, policy: "general", limit: 10, remaining: left, retry_after: null, blocked: false });
          assert.ok(Number.isInteger(answer.reset) && answer.reset > Date.now(), `reset is ${answer.reset}, not a later time in ms`);
          const { allowed, limit, remaining, reset, retry_after, blocked } = answer;
          assert.deepEqual(answer.results, [{ policy: "general", identifier: "alice", allowed, limit, remaining, reset, retry_after, blocked }]);
        }
        const denied = await check(limiter, { policy: "general", identifier: "alice" });
        has(denied, { allowed: false, policy: "general", limit: 10, remaining: 0, blocked: false });
        assert.ok(Number.isInteger(denied.retry_after) && denied.retry_after > 0 && denied.retry_after <= 2 * WINDOW, `retry_after is ${denied.retry_after} s`);
        has(denied.results[0], { identifier: "alice", allowed: false, retry_after: denied.retry_after });
        has(await check(limiter, { policy: "general", identifier: "bob" }), { allowed: true, remaining: 9 });
        assert.equal(await used(limiter, "general", "id:alice"), 10);
      });

      it("sets a policy's block, and reports it", async () => {
        const limiter = await start();
        for (const allowed of [true, true, false]) has(await check(limiter, { policy: "auth", identifier: "alice" }), { allowed });
        const answer = await check(limiter, { policy: "auth", identifier: "alice" });
        has(answer, { allowed: false, blocked: true });
        // retry_after is the later of the block's end and the quota's.
        assert.ok(answer.retry_after >= 590, `retry_after is ${answer.retry_after} s`);
        isNear((await good(limiter, "GET", usage("auth", "id:alice"))).blocked_until, 600_000);
      });

      it("takes its cost in units: none, several, and never more than remain", async () => {
        const limiter = await start();
        const at = (cost) => check(limiter, { policy: "general", identifier: "alice", cost });
        for (let look = 0; look < 20; look++) has(await at(0), { allowed: true, remaining: 10, retry_after: null });
        has(await at(7), { allowed: true, remaining: 3 });
        has(await at(4), { allowed: false, remaining: 3 });
        has(await at(0), { remaining: 3 });
        has(await at(3), { allowed: true, remaining: 0 });
        assert.equal(await used(limiter, "general", "id:alice"), 10);
        // A cost above the limit: waiting does not help, and no block is set.
        has(await check(limiter, { policy: "auth", identifier: "carol", cost: 3 }), { allowed: false, retry_after: null, blocked: false });
        has(await check(limiter, { policy: "auth", identifier: "carol" }), { allowed: true, remaining: 1 });
      });

      it("admits all of several checks, or charges none", async () => {
        const limiter = await start({ RATE_LIMIT_AUTH: `2,${WINDOW}` });
        const both = { checks: [{ policy: "general", identifier: "alice" }, { policy: "auth", identifier: "bob" }] };
        const first = await check(limiter, both);
        has(first, { allowed: true });
        assert.deepEqual(first.results.map(({ policy, identifier, allowed, limit, remaining }) => [policy, identifier, allowed, limit, remaining]), [
          ["general", "alice", true, 10, 9], ["auth", "bob", true, 2, 1],
        ]);
        // The answer's fields are those of the quota with the smallest share left.
        has(first, { policy: "auth", limit: 2, remaining: 1 });
        has(await check(limiter, { ...both, cost: 2 }), { allowed: false, policy: "auth" });
        assert.equal(await used(limiter, "general", "id:alice"), 1);
        has(await check(limiter, { ...both, cost: 1 }), { allowed: true });
        for (let again = 0; again < 5; again++) {
          const denied = await check(limiter, both);
          has(denied, { allowed: false, policy: "auth" });
          has(denied.results[1], { policy: "auth", identifier: "bob", allowed: false });
        }
        // The order of the checks makes no difference.
        has(await check(limiter, { checks: [...both.checks].reverse() }), { allowed: false, policy: "auth" });
        assert.equal(await used(limiter, "general", "id:alice"), 2);
        assert.equal(await used(limiter, "auth", "id:bob"), 2);
        // A call has at most 16 checks.
        const many = (count) => ({ checks: Array.from({ length: count }, (_, i) => ({ policy: "general", identifier: `n${i}` })) });
        assert.equal((await check(limiter, many(16))).results.length, 16);
        await refused(400, limiter, "POST", "check", { json: many(17) });
        assert.equal(await used(limiter, "general", "id:n0"), 1);
      });

      it("shares quota and block with the address's own requests; other names have separate quotas", async () => {
        const limiter = await start();
        for (const [identifier, caller] of [["192.0.2.1", "192.0.2.1"], ["2001:db8::7", "2001:db8::8"]]) {
          has(await check(limiter, { policy: "general", identifier }), { remaining: 9 });
          assert.equal((await get(limiter, caller)).headers["x-ratelimit-remaining"], "8");
          has(await check(limiter, { policy: "general", identifier, cost: 8 }), { allowed: true, remaining: 0 });
          assert.equal(await ask(limiter, caller), 429);
          assert.equal(await used(limiter, "general", caller), 10);
        }
        await good(limiter, "PUT", blocked("192.0.2.5"), { json: { seconds: 600 } });
        const answer = await check(limiter, { policy: "general", identifier: "192.0.2.5" });
        has(answer, { allowed: false, blocked: true });
        assert.ok(answer.retry_after > 590 && answer.retry_after <= 600, `retry_after is ${answer.retry_after} s`);
        assert.equal(await used(limiter, "general", "192.0.2.5"), 0);
        // A name that looks like a key has a separate quota.
        for (const identifier of ["unknown", "global", "blocked", "192.0.2.9:blocked", `user-${"0a".repeat(16)}`]) {
          has(await check(limiter, { policy: "general", identifier, cost: 10 }), { allowed: true, remaining: 0 });
        }
        for (const caller of ["unknown", "192.0.2.9", `user-${"0a".repeat(16)}`]) assert.equal(await used(limiter, "general", caller), 0, caller);
        await isAdmitted(limiter, "192.0.2.9");
      });

      it("accepts either token, and CHECK_TOKEN opens no other call", async () => {
        const limiter = await start();
        const json = { policy: "general", identifier: "alice" };
        for (const token of [CHECK_TOKEN, ADMIN_TOKEN]) has(await good(limiter, "POST", "check", { json, token }), { allowed: true });
        for (const token of [null, "wrong", CHECK_TOKEN.slice(1)]) {
          const answer = await refused(401, limiter, "POST", "check", { json, token });
          const error = token ? ', error="invalid_token"' : "";
          assert.equal(answer.headers["www-authenticate"], `Bearer realm="edge-limiter"${error}`);
        }
        for (const [method, path] of [
          ["GET", "blocked"], ["GET", "blocked/192.0.2.1"], ["PUT", "blocked/192.0.2.1"], ["DELETE", "blocked/192.0.2.1"], ["GET", "events"], ["DELETE", "events?older_than_seconds=1"],
          ["GET", "suspicious"], ["GET", "policies"], ["GET", usage("general", "192.0.2.1")], ["DELETE", usage("general", "id:alice")],
        ]) await refused(401, limiter, method, path, { token: CHECK_TOKEN });
        assert.deepEqual(Object.keys(await good(limiter, "GET", "health", { token: CHECK_TOKEN })).sort(), ["breaker", "status", "store", "version"]);
        assert.equal(await used(limiter, "general", "id:alice"), 2);
        for (const method of ["GET", "PUT", "DELETE", "PATCH"]) assert.equal((await refused(405, limiter, method, "check")).headers.allow, "POST");
      });

      it("exists if either token is set, and is answered 404 if neither is", async () => {
        const json = { policy: "general", identifier: "alice" };
        const withCheck = await start({ ADMIN_TOKEN: "" });
        has(await check(withCheck, json), { allowed: true });
        await refused(401, withCheck, "POST", "check", { json });
        for (const path of ["blocked", "events", "policies"]) for (const token of [CHECK_TOKEN, ADMIN_TOKEN, "", null]) await refused(404, withCheck, "GET", path, { token });
        const withAdmin = await start({ CHECK_TOKEN: "" });
        has(await good(withAdmin, "POST", "check", { json }), { allowed: true });
        for (const token of [CHECK_TOKEN, "", null]) await refused(401, withAdmin, "POST", "check", { json, token });
        const without = await start({ ADMIN_TOKEN: "", CHECK_TOKEN: "" });
        for (const token of [CHECK_TOKEN, ADMIN_TOKEN, "", null]) await refused(404, without, "POST", "check", { json, token });
      });

      it("answers 400 to an invalid check, and consumes nothing", async () => {
        const limiter = await start();
        const one = { policy: "general", identifier: "alice" };
        for (const json of [
          {}, [], "x", 5, { policy: "general" }, { identifier: "alice" }, { ...one, policy: "nosuch" }, { ...one, policy: 5 }, { ...one, identifier: 5 }, { ...one, identifier: null },
          { ...one, identifier: ["alice"] }, ...[-1, 1.5, "1", true, [1], {}, 1e300, 2 ** 64].map((cost) => ({ ...one, cost })),
          { checks: [] }, { checks: {} }, { checks: [one, 5] }, { checks: [one, { policy: "general" }] }, { checks: [one, { ...one, policy: "nosuch" }] }, { checks: [one], cost: -1 },
        ]) await refused(400, limiter, "POST", "check", { json, token: CHECK_TOKEN });
        for (const body of ["", "{", "policy=general&identifier=alice", `${JSON.stringify(one)}x`]) await refused(400, limiter, "POST", "check", { body, token: CHECK_TOKEN });
        assert.equal(await used(limiter, "general", "id:alice"), 0);
      });

      it("accepts a body of up to 16 KB", async () => {
        const limiter = await start();
        const sized = (size) => {
          const around = JSON.stringify({ policy: "general", identifier: "" }).length;
          return JSON.stringify({ policy: "general", identifier: "i".repeat(size - around) });
        };
        assert.notEqual((await control(limiter, "POST", "check", { body: sized(16_000), token: CHECK_TOKEN })).status, 413);
        for (const size of [16 * 1024 + 1, 100_000]) await refused(413, limiter, "POST", "check", { body: sized(size), token: CHECK_TOKEN });
      });
    });
  }

  it("admits up to one limit over all processes on one Redis, under concurrency", async () => {
    const vars = { CHECK_TOKEN, RATE_LIMIT_GENERAL: `10,${WINDOW}`, RATE_LIMIT_IP: "off" };
    const limiters = await Promise.all([shared.warm(vars), shared.warm(vars)]);
    const json = { checks: [{ policy: "general", identifier: "alice" }, { policy: "general", identifier: "bob" }] };
    const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => good(limiters[i % 2], "POST", "check", { json, token: CHECK_TOKEN })));
    assert.equal(answers.filter(({ allowed }) => allowed).length, 10);
    for (const { results } of answers) assert.deepEqual(results.map(({ identifier }) => identifier), ["alice", "bob"]);
  });
});

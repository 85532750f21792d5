/** Blocks that an operator sets, reads, lists and lifts, in the isolate that takes the call. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import {
  ADMIN_TOKEN, MODES, blocked, control, eventually, get, good, has, isAdmitted, isBlocked, isNear, pages, refused,
} from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { INSIDE, advanceClock } from "../harness/inside.mjs";
import { startShared } from "../harness/limited.mjs";

/** A target as given, its canonical name, callers that it covers, and callers next to it that it does not cover. */
const TARGETS = [
  ["192.0.2.1", "192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.2"]],
  ["2001:db8:0:1::5", "2001:db8:0:1::/64", ["2001:db8:0:1::5", "2001:db8:0:1:ffff::1"], ["2001:db8:0:2::5"]],
  ["2001:DB8:0:1::5/128", "2001:db8:0:1::/64", ["2001:db8:0:1::6"], ["2001:db8:0:2::6"]],
  ["10.1.2.3/8", "10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]],
  ["198.51.100.77/30", "198.51.100.76/30", ["198.51.100.76", "198.51.100.79"], ["198.51.100.75", "198.51.100.80"]],
  ["2001:db8:ff12::1/40", "2001:db8:ff00::/40", ["2001:db8:ff00::1", "2001:db8:ffff::1"], ["2001:db8:fe00::1", "10.0.0.1"]],
];
const WITH_HOST_BITS = ["10.1.2.3/8", "198.51.100.77/30", "2001:db8:ff12::1/40"];

describe("blocks", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  for (const [mode, { vars: own, scope }] of Object.entries(MODES)) {
    const start = (vars, options) => shared.limiter({ ADMIN_TOKEN, RATE_LIMIT_IP: "off", ...own, ...vars }, options);

    describe(`in ${mode}`, () => {
      it("a block is in force and shown at once, and lifted at once", async () => {
        const limiter = await start();
        for (const [given, target, inside, outside] of TARGETS) {
          for (const caller of [...inside, ...outside]) await isAdmitted(limiter, caller);
          // A range is named by its first address. With bits after the prefix it is ambiguous, and refused.
          const hasHostBits = WITH_HOST_BITS.includes(given);
          if (hasHostBits) assert.ok((await refused(400, limiter, "PUT", blocked(given))).json().message.includes(target));
          const entry = await good(limiter, "PUT", blocked(hasHostBits ? target : given), { json: { seconds: 600, reason: "scraping" } });
          has(entry, { target, by: "operator", reason: "scraping" });
          isNear(entry.since, 0);
          assert.equal(entry.until, entry.since + 600_000);
          for (const caller of inside) await isBlocked(limiter, caller, 600);
          for (const caller of outside) await isAdmitted(limiter, caller);

          const shown = { until: entry.until, since: entry.since, by: "operator", reason: "scraping" };
          for (const name of [given, target]) {
            assert.deepEqual(await good(limiter, "GET", blocked(name)), { scope, target, blocked: true, ...shown, covered_by: null });
          }
          const list = await good(limiter, "GET", "blocked");
          assert.deepEqual(list, { scope, blocked: [{ target, ...shown }], policies: [], cursor: null });

          const lifted = await good(limiter, "DELETE", blocked(given));
          assert.deepEqual(lifted, { scope, target, lifted: true, policies_lifted: 0 });
          for (const caller of inside) await isAdmitted(limiter, caller);
          assert.deepEqual(await good(limiter, "DELETE", blocked(given)), { ...lifted, lifted: false });
          has(await good(limiter, "GET", blocked(target)), { target, blocked: false, until: null, since: null, by: null, reason: null, covered_by: null });
          assert.deepEqual((await good(limiter, "GET", "blocked")).blocked, []);
        }
      });

      it("a block without seconds has no end, and the caller gets no Retry-After", async () => {
        const limiter = await start();
        for (const [target, inside, body] of [["192.0.2.1", "192.0.2.1", {}], ["203.0.113.0/24", "203.0.113.9", { json: {} }], ["2001:db8::/32", "2001:db8::1", { json: { reason: "x" } }]]) {
          has(await good(limiter, "PUT", blocked(target), body), { target, until: null, by: "operator", reason: body.json?.reason ?? null });
          await isBlocked(limiter, inside, null);
          has(await good(limiter, "GET", blocked(target)), { blocked: true, until: null });
        }
        const list = (await good(limiter, "GET", "blocked")).blocked;
        assert.deepEqual(list.map(({ target, until }) => `${target} ${until}`).sort(), ["192.0.2.1 null", "2001:db8::/32 null", "203.0.113.0/24 null"]);
      });

      it("a block ends when its seconds are over", async () => {
        const limiter = await start();
        for (const [target, caller] of [["192.0.2.1", "192.0.2.1"], ["203.0.113.0/24", "203.0.113.9"]]) {
          await good(limiter, "PUT", blocked(target), { json: { seconds: 1 } });
          await isBlocked(limiter, caller, 1);
          await eventually(() => isAdmitted(limiter, caller));
          has(await good(limiter, "GET", blocked(target)), { blocked: false });
        }
        assert.deepEqual((await good(limiter, "GET", "blocked")).blocked, []);
      });

      it("a later block of the same target replaces the earlier one, longer or shorter", async () => {
        const limiter = await start();
        for (const [target, caller] of [["192.0.2.1", "192.0.2.1"], ["203.0.113.0/24", "203.0.113.9"]]) {
          for (const seconds of [600, 6000, 60, null]) {
            const json = { ...(seconds && { seconds }), reason: `for ${seconds}` };
            has(await good(limiter, "PUT", blocked(target), { json }), { reason: `for ${seconds}` });
            await isBlocked(limiter, caller, seconds);
            has(await good(limiter, "GET", blocked(target)), { blocked: true, reason: `for ${seconds}` });
          }
        }
        assert.equal((await good(limiter, "GET", "blocked")).blocked.length, 2);
      });

      it("a block of a range covers its addresses, and an address's own block is lifted separately", async () => {
        const limiter = await start();
        await good(limiter, "PUT", blocked("10.0.0.0/8"), { json: { seconds: 6000, reason: "range" } });
        has(await good(limiter, "GET", blocked("10.1.1.1")), { target: "10.1.1.1", blocked: true, covered_by: "10.0.0.0/8" });
        await good(limiter, "PUT", blocked("10.1.1.1"), { json: { seconds: 600, reason: "own" } });
        has(await good(limiter, "GET", blocked("10.1.1.1")), { blocked: true, reason: "own", covered_by: null });
        // The block that ends later is in force.
        await isBlocked(limiter, "10.1.1.1", 6000);
        has(await good(limiter, "DELETE", blocked("10.1.1.1")), { lifted: true });
        await isBlocked(limiter, "10.1.1.1", 6000);
        has(await good(limiter, "DELETE", blocked("10.1.1.1")), { lifted: false });
        has(await good(limiter, "DELETE", blocked("10.0.0.0/8")), { lifted: true });
        await isAdmitted(limiter, "10.1.1.1");
      });

      it("a blocked request consumes nothing, and blocks are in force while the limiter is disabled", async () => {
        const limiter = await start({ RATE_LIMIT_GENERAL: `3,${HOUR_S}` });
        await good(limiter, "PUT", blocked("192.0.2.1"));
        for (let request = 0; request < 10; request++) await isBlocked(limiter, "192.0.2.1", null);
        await good(limiter, "DELETE", blocked("192.0.2.1"));
        assert.equal((await get(limiter, "192.0.2.1")).headers["x-ratelimit-remaining"], "2");

        const disabled = await start({ RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_ENABLED: "false" });
        await good(disabled, "PUT", blocked("192.0.2.3"), { json: { seconds: 600 } });
        await good(disabled, "PUT", blocked("10.0.0.0/8"));
        await isBlocked(disabled, "192.0.2.3", 600);
        await isBlocked(disabled, "10.1.1.1", null);
        for (let request = 0; request < 3; request++) await isAdmitted(disabled, "192.0.2.4");
      });

      it("a block of an allow-listed, shared or too wide target is answered 409, and blocks nobody", async () => {
        const limiter = await start({ RATE_LIMIT_ALLOWLIST: "198.51.100.0/24, 192.0.2.7, 2001:db8:aaaa::/48" });
        for (const target of [
          "192.0.2.7", "198.51.100.7", "2001:db8:aaaa::1",
          "0.0.0.0/0", "::/0", "10.0.0.0/7", "2a00::/15",
          "2a06:98c0:3600::103", "2a06:98c0:3600::103/128", "2a06:98c0:3600::/64",
        ]) await refused(409, limiter, "PUT", blocked(target), { json: { seconds: 60 } });
        assert.deepEqual((await good(limiter, "GET", "blocked")).blocked, []);
        for (const caller of ["192.0.2.7", "198.51.100.7", "2001:db8:aaaa::1", "2a06:98c0:3600::103", "10.0.0.1"]) await isAdmitted(limiter, caller);
        // These are the widest ranges allowed. They do not block the address that all Workers of other zones share.
        for (const target of ["10.0.0.0/8", "2a06::/16"]) has(await good(limiter, "PUT", blocked(target)), { target });
        await isBlocked(limiter, "2a06:98c0:3601::103", null);
        await isAdmitted(limiter, "2a06:98c0:3600::103");
      });

      it("a block with an invalid target or body is answered 400, and sets nothing", async () => {
        const limiter = await start();
        for (const target of [
          "nonsense", "unknown", "global", "*", "192.0.2.256", "192.0.2", "010.0.0.1", "0x7f.1", "192.0.2.1/33", "192.0.2.1/-1", "192.0.2.1/", "192.0.2.1/x", "192.0.2.1/8/8",
          "2001:db8::/129", "2001:db8::1::2", "192.0.2.1,192.0.2.2", "user:alice", "192.0.2.1\0", "\n", "é",
        ]) await refused(400, limiter, "PUT", blocked(target));
        for (const json of [
          { seconds: 0 }, { seconds: -1 }, { seconds: 1.5 }, { seconds: "60" }, { seconds: true }, { seconds: [60] }, { seconds: 31_622_401 }, { seconds: 1e300 },
          { reason: 5 }, { reason: "x".repeat(201) }, { reason: "a\nb" }, { reason: "a\u0000b" }, { reason: "\u001b[31m" }, { reason: "\u007f" },
          { second: 60 }, { seconds: 60, until: 5 }, [], "x", 60,
        ]) await refused(400, limiter, "PUT", blocked("192.0.2.1"), { json });
        for (const body of ["{", "seconds=60", "{\"seconds\":NaN}", "{\"seconds\":1e999}", Buffer.from([0xff, 0xfe])]) {
          await refused(400, limiter, "PUT", blocked("192.0.2.1"), { body });
        }
        assert.deepEqual((await good(limiter, "GET", "blocked")).blocked, []);
        for (const json of [{ seconds: 1 }, { seconds: 31_622_400 }, { reason: "é".repeat(200) }, { reason: "\u{1f600} <b>" }]) {
          has(await good(limiter, "PUT", blocked("192.0.2.1"), { json }), { reason: json.reason ?? null });
        }
      });

      it("a policy's block is listed, and lifted with the address", async () => {
        const limiter = await start({
          RATE_LIMIT_AUTH: "2,60,600",
          RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }],
        }, { modules: INSIDE });
        let ahead = 0;
        for (const [caller, name] of [["192.0.2.1", "192.0.2.1"], ["2001:db8::5", "2001:db8::/64"]]) {
          for (const status of [200, 200, 429]) assert.equal((await get(limiter, caller, "/auth")).status, status);
          await isBlocked(limiter, caller, 600, "/auth");
          await isAdmitted(limiter, caller);
          const { blocked: own, policies } = await good(limiter, "GET", "blocked");
          assert.deepEqual(own, []);
          assert.deepEqual(policies.map(({ until: _, ...rest }) => rest), [{ policy: "auth", caller: name }]);
          isNear(policies[0].until, 600_000 + ahead);
          // The quota has room again, so that the block alone denies.
          await advanceClock(limiter, 65_000);
          ahead += 65_000;
          await isBlocked(limiter, caller, 535, "/auth");
          assert.deepEqual(await good(limiter, "DELETE", blocked(caller)), { scope, target: name, lifted: false, policies_lifted: 1 });
          await isAdmitted(limiter, caller, "/auth");
          assert.deepEqual((await good(limiter, "GET", "blocked")).policies, []);
        }
      });

      it("1,500 blocks are listed in pages, each exactly once", async () => {
        const limiter = await start({ RATE_LIMIT_AUTH: `1,${HOUR_S},600`, RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }] });
        const targets = Array.from({ length: 1500 }, (_, i) => `10.0.${i >> 8}.${i & 255}`);
        const left = targets.entries();
        await Promise.all(Array.from({ length: 20 }, async () => {
          for (const [i, target] of left) await good(limiter, "PUT", blocked(target), { json: i % 2 ? { seconds: HOUR_S } : {} });
        }));
        for (const range of ["10.1.0.0/16", "2001:db8::/32"]) await good(limiter, "PUT", blocked(range));
        for (const status of [200, 429]) assert.equal((await get(limiter, "192.0.2.1", "/auth")).status, status);
        for (const limit of [97, 1000]) {
          const all = await pages(limiter, "blocked", "blocked", limit);
          assert.ok(all.length > 1);
          const listed = all.flatMap((page) => page.blocked.map(({ target }) => target));
          assert.deepEqual(listed.sort(), [...targets, "10.1.0.0/16", "2001:db8::/32"].sort());
          assert.deepEqual(all.map(({ policies }) => policies?.length ?? 0), [1, ...Array(all.length - 1).fill(0)]);
        }
        assert.ok((await good(limiter, "GET", "blocked")).blocked.length <= 100);
        for (const limit of ["0", "1001", "-1", "1.5", "x", "", "1e2"]) await refused(400, limiter, "GET", `blocked?limit=${limit}`);
        assert.ok([200, 400].includes((await control(limiter, "GET", "blocked?cursor=garbage")).status));
      });
    });
  }
});

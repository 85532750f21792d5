/** Escalation blocks callers that are denied too often, from every path, and for longer each time. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import {
  ADMIN_TOKEN, ELSEWHERE_MS, MODES, RECORDED_MS, blocked, eventually, get, good, has, isAdmitted, isBlocked, isNear,
} from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { ask, startShared } from "../harness/limited.mjs";

describe("escalation", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  /** `/` has a limit of 1, `/open` one that no test here reaches. */
  const VARS = {
    ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_OPEN: `1000,${HOUR_S}`,
    RATE_LIMIT_ROUTES: [{ path: "/open", policies: ["open"] }],
  };

  /** Sends one request that is admitted, then `times` requests that are denied. */
  async function deny(limiter, caller, times) {
    assert.equal(await ask(limiter, caller), 200);
    for (let denial = 0; denial < times; denial++) assert.equal(await ask(limiter, caller), 429);
  }

  /** Waits until the caller is recorded with this number of denials. */
  const counted = (limiter, caller, denied) => eventually(async () => {
    const { callers } = await good(limiter, "GET", "suspicious?hours=2&limit=1000");
    assert.equal(callers.find((one) => one.caller === caller)?.denied, denied);
  }, RECORDED_MS);

  /** Waits until escalation has blocked the caller. Returns the block's entry. */
  const escalated = (limiter, target) => eventually(async () => {
    const entry = await good(limiter, "GET", blocked(target));
    has(entry, { blocked: true, by: "escalation" });
    return entry;
  }, RECORDED_MS);

  for (const [mode, { vars: own, scope }] of Object.entries(MODES)) {
    const start = (vars) => shared.limiter({ ...VARS, ...own, ...vars });

    describe(`in ${mode}`, () => {
      it("blocks a caller that is denied more often than the threshold, not one that is denied exactly as often", async () => {
        const limiter = await start({ RATE_LIMIT_ESCALATION: "5,60,30" });
        await deny(limiter, "192.0.2.5", 5);
        await deny(limiter, CALLER, 6);
        const entry = await escalated(limiter, CALLER);
        has(entry, { scope, target: CALLER, covered_by: null });
        assert.equal(entry.until - entry.since, 30_000);
        isNear(entry.since, 0, 20_000);
        // The block is for every path, not only for the one that was denied.
        await isBlocked(limiter, CALLER, 30, "/open");
        const { blocked: list } = await good(limiter, "GET", "blocked");
        assert.deepEqual(list.map(({ target, by }) => [target, by]), [[CALLER, "escalation"]]);
        await counted(limiter, "192.0.2.5", 5);
        has(await good(limiter, "GET", blocked("192.0.2.5")), { blocked: false });
        await isAdmitted(limiter, "192.0.2.5", "/open");
        await eventually(async () => {
          const { events } = await good(limiter, "GET", "events?limit=1000");
          assert.deepEqual(events.filter(({ kind }) => kind === "escalated").map(({ caller }) => caller), [CALLER]);
        }, RECORDED_MS);
        has(await good(limiter, "DELETE", blocked(CALLER)), { lifted: true });
        await isAdmitted(limiter, CALLER, "/open");
      });

      it("doubles the length of each further block", async () => {
        const limiter = await start({ RATE_LIMIT_ESCALATION: "5,60,1" });
        await deny(limiter, CALLER, 6);
        for (const seconds of [1, 2, 4]) {
          await eventually(async () => {
            await get(limiter, CALLER);
            const entry = await good(limiter, "GET", blocked(CALLER));
            has(entry, { blocked: true, by: "escalation" });
            assert.equal(entry.until - entry.since, seconds * 1000);
          }, 2 * RECORDED_MS);
          // Read without a request of the caller, which could count as one more denial.
          await eventually(async () => has(await good(limiter, "GET", blocked(CALLER)), { blocked: false }));
        }
      });

      it("is off unless it is set", async () => {
        const limiter = await start();
        await deny(limiter, CALLER, 50);
        await counted(limiter, CALLER, 50);
        assert.deepEqual((await good(limiter, "GET", "blocked")).blocked, []);
        await isAdmitted(limiter, CALLER, "/open");
      });

      it("never blocks an address that unrelated callers share, or one on the allow-list", async () => {
        const limiter = await start({ RATE_LIMIT_ESCALATION: "5,60,30", RATE_LIMIT_ALLOWLIST: "192.0.2.8" });
        await deny(limiter, "", 20);
        await deny(limiter, "2a06:98c0:3600::103", 20);
        for (let request = 0; request < 20; request++) await isAdmitted(limiter, "192.0.2.8");
        await counted(limiter, "unknown", 20);
        await counted(limiter, "2a06:98c0:3600::/64", 20);
        assert.deepEqual((await good(limiter, "GET", "blocked")).blocked, []);
        for (const caller of ["", "2a06:98c0:3600::103", "192.0.2.8"]) await isAdmitted(limiter, caller, "/open");
      });

      it("leaves an operator's block unchanged", async () => {
        const limiter = await start({ RATE_LIMIT_ESCALATION: "5,60,30" });
        const entry = await good(limiter, "PUT", blocked(CALLER), { json: { reason: "mine" } });
        for (let request = 0; request < 20; request++) await isBlocked(limiter, CALLER, null);
        await eventually(async () => {
          const { events } = await good(limiter, "GET", "events?limit=1000");
          assert.equal(events.reduce((total, { count }) => total + count, 0), 20);
        }, RECORDED_MS);
        has(await good(limiter, "GET", blocked(CALLER)), { blocked: true, by: "operator", until: null, since: entry.since, reason: "mine" });
      });
    });
  }

  it("blocks a caller in all processes", async () => {
    const vars = { ...VARS, RATE_LIMIT_ESCALATION: "5,60,30" };
    const [here, there] = await Promise.all([shared.limiter(vars), shared.limiter(vars)]);
    await isAdmitted(there, CALLER, "/open");
    await isAdmitted(there, "2001:db8::9", "/open");
    await deny(here, CALLER, 6);
    await deny(here, "2001:db8::5", 6);
    await escalated(here, CALLER);
    await escalated(here, "2001:db8::/64");
    for (const caller of [CALLER, "2001:db8::9"]) {
      await eventually(() => isBlocked(there, caller, 30, "/open"));
      has(await good(there, "GET", blocked(caller)), { blocked: true, by: "escalation" });
    }
    has(await good(there, "DELETE", blocked(CALLER)), { lifted: true });
    await eventually(() => isAdmitted(here, CALLER, "/open"), ELSEWHERE_MS + 2000);
  });

  it("with an invalid value makes health misconfigured", async () => {
    const limiter = await shared.limiter({ ...VARS, RATE_LIMIT_ESCALATION: "five" });
    const { status, errors } = await good(limiter, "GET", "health");
    assert.equal(status, "misconfigured");
    assert.ok(errors.some(({ variable }) => variable === "RATE_LIMIT_ESCALATION"));
  });
});

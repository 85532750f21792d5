/** The records of requests: denials, the callers denied most, bypasses, samples and wrong tokens. */

import assert from "node:assert/strict";
import { Agent } from "node:http";
import { after, before, beforeEach, describe, it } from "node:test";
import {
  ADMIN_TOKEN, BYPASS_TOKEN, MODES, OPERATOR, RECORDED_MS, blocked, control, eventually, get, good, has, isBlocked, isNear, pages, refused,
} from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { INSIDE, advanceClock } from "../harness/inside.mjs";
import { ask, startShared } from "../harness/limited.mjs";

const FLOOD = 2000;
const FIELDS = ["asn", "caller", "count", "country", "id", "kind", "last", "method", "path", "policy", "ray", "status", "time"];

/** Longer than the usual pause between attempts, since each attempt costs commands. */
const PAUSE_MS = 250;

describe("events", () => {
  let shared, standIn;
  before(async () => {
    shared = await startShared();
    ({ standIn } = shared);
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  /** Waits until `check` passes on the events of all pages. Returns the result of `check`, or the events. */
  const recorded = (limiter, check, limit = 1000) => eventually(async () => {
    const all = await pages(limiter, "events", "events", limit);
    const events = all.flatMap((page) => page.events);
    return (await check(events, all[0].left_out)) ?? events;
  }, RECORDED_MS, PAUSE_MS);

  const sum = (events) => events.reduce((total, { count }) => total + count, 0);

  for (const [mode, { vars: own, scope }] of Object.entries(MODES)) {
    const start = (vars, options) => shared.limiter({
      ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_ROUTES: [{ path: "/auth/**", policies: ["auth"] }],
      RATE_LIMIT_AUTH: `1,${HOUR_S}`, ...own, ...vars,
    }, options);

    describe(`in ${mode}`, () => {
      it("an event of a denial names the caller, the request and the policy", async () => {
        const limiter = await start();
        assert.deepEqual(await good(limiter, "GET", "events"), { scope, events: [], left_out: 0, cursor: null });
        const from = Date.now();
        const ways = [["192.0.2.1", "GET", "/x", "general"], ["2001:db8::5", "POST", "/auth/login", "auth"], ["", "GET", "/", "general"]];
        for (const [caller, method, path] of ways) {
          for (const status of [200, 429]) {
            const options = { method, headers: { "CF-Ray": "8f0123456789abcd-FRA" } };
            assert.equal((await get(limiter, caller, path, options)).status, status);
          }
        }
        const events = await recorded(limiter, (events) => assert.equal(events.length, ways.length));
        const names = { "2001:db8::5": "2001:db8::/64", "": "unknown" };
        for (const [caller, method, path, policy] of ways) {
          const name = names[caller] ?? caller;
          const event = events.find((event) => event.caller === name);
          has(event, { kind: "denied", caller: name, policy, method, path, status: 429, count: 1, ray: "8f0123456789abcd-FRA" });
          assert.deepEqual(Object.keys(event).sort(), FIELDS);
          isNear(event.time, 0);
          assert.ok(event.time >= from && event.last >= event.time && event.last <= Date.now(), JSON.stringify(event));
        }
        assert.equal(new Set(events.map(({ id }) => id)).size, ways.length);
      });

      it("events of many callers are listed newest first, in pages", async () => {
        const limiter = await start();
        const callers = Array.from({ length: 300 }, (_, i) => `10.0.${i >> 8}.${i & 255}`);
        for (const status of [200, 429]) for (const caller of callers) assert.equal(await ask(limiter, caller), status);
        const events = await recorded(limiter, (events, left) => assert.equal(sum(events) + left, callers.length), 70);
        assert.equal(new Set(events.map(({ id }) => id)).size, events.length, "an event is listed twice");
        for (const event of events) has(event, { kind: "denied", count: 1 });
        assert.equal(new Set(events.map(({ caller }) => caller)).size, events.length, "a caller has several records");
        const times = events.map(({ time }) => time);
        assert.deepEqual(times, [...times].sort((a, b) => b - a));
        assert.ok((await good(limiter, "GET", "events")).events.length <= 100);
        assert.deepEqual((await good(limiter, "GET", "events?limit=1")).events, [events[0]]);
        for (const limit of ["0", "1001", "-1", "1.5", "x", ""]) await refused(400, limiter, "GET", `events?limit=${limit}`);
      });

      it(`${FLOOD} denied requests of one caller make few records, whose counts add up`, async (t) => {
        const limiter = await start();
        assert.equal(await ask(limiter, CALLER), 200);
        const agent = new Agent({ keepAlive: true, maxSockets: 20 });
        let [left, billed, looked] = [FLOOD, await standIn.billed(), 0];
        await Promise.all(Array.from({ length: 20 }, async () => {
          while (left-- > 0) assert.equal(await ask(limiter, CALLER, "/", agent), 429);
        }));
        agent.destroy();
        const events = await eventually(async () => {
          const before = await standIn.billed();
          const page = await good(limiter, "GET", "events?limit=1000");
          looked += (await standIn.billed()) - before;
          assert.equal(sum(page.events) + page.left_out, FLOOD);
          return page.events;
        }, RECORDED_MS, PAUSE_MS);
        billed = (await standIn.billed()) - billed - looked;
        t.diagnostic(`${events.length} records, ${billed} commands`);
        assert.ok(events.length <= 20, `${events.length} records`);
        assert.ok(billed < 150, `${billed} commands were billed`);
        for (const event of events) has(event, { kind: "denied", caller: CALLER, policy: "general", status: 429 });
      });

      it("events are deleted by age", async () => {
        const limiter = await start({}, { modules: INSIDE });
        const deny = async (callers) => {
          for (const caller of callers) for (const status of [200, 429]) assert.equal(await ask(limiter, caller), status);
        };
        await deny(["192.0.2.1", "192.0.2.2"]);
        await recorded(limiter, (events) => assert.equal(events.length, 2));
        assert.deepEqual(await good(limiter, "DELETE", "events?older_than_seconds=600"), { scope, removed: 0 });
        await advanceClock(limiter, 1000_000);
        await deny(["192.0.2.3"]);
        await recorded(limiter, (events) => assert.equal(events.length, 3));
        for (const query of ["", "?older_than_seconds=", "?older_than_seconds=-1", "?older_than_seconds=1.5", "?older_than_seconds=x", "?older_than_seconds=1e999"]) {
          await refused(400, limiter, "DELETE", `events${query}`);
        }
        assert.deepEqual(await good(limiter, "DELETE", "events?older_than_seconds=600"), { scope, removed: 2 });
        const { events } = await good(limiter, "GET", "events");
        assert.deepEqual(events.map(({ caller }) => caller), ["192.0.2.3"]);
        assert.deepEqual(await good(limiter, "DELETE", "events?older_than_seconds=600"), { scope, removed: 0 });
      });

      it("the callers denied most are listed with the policies that denied them", async () => {
        const limiter = await start();
        assert.deepEqual(await good(limiter, "GET", "suspicious"), { scope, hours: 1, callers: [] });
        const denials = { "192.0.2.1": { general: 1 }, "192.0.2.2": { general: 2, auth: 5 }, "2001:db8::/64": { auth: 4 } };
        for (const [caller, policies] of Object.entries(denials)) {
          for (const [policy, count] of Object.entries(policies)) {
            const path = policy === "auth" ? "/auth/x" : "/";
            const address = caller.replace("/64", "7");
            assert.equal(await ask(limiter, address, path), 200);
            for (let denial = 0; denial < count; denial++) assert.equal(await ask(limiter, address, path), 429);
          }
        }
        // Two hours, because the current hour may have just begun.
        const callers = [
          { caller: "192.0.2.2", denied: 7, policies: { general: 2, auth: 5 } },
          { caller: "2001:db8::/64", denied: 4, policies: { auth: 4 } },
          { caller: "192.0.2.1", denied: 1, policies: { general: 1 } },
        ];
        await eventually(async () => assert.deepEqual(await good(limiter, "GET", "suspicious?hours=2"), { scope, hours: 2, callers }), RECORDED_MS, PAUSE_MS);
        assert.deepEqual(await good(limiter, "GET", "suspicious?hours=24&limit=1"), { scope, hours: 24, callers: callers.slice(0, 1) });
        for (const query of ["hours=0", "hours=25", "hours=1.5", "hours=-1", "hours=x", "hours=1e9", "limit=0", "limit=1001", "limit=1e999"]) {
          await refused(400, limiter, "GET", `suspicious?${query}`);
        }
      });

      it("denials by a block are recorded, and admitted requests are not", async () => {
        const limiter = await start();
        await good(limiter, "PUT", blocked("192.0.2.9"));
        for (let request = 0; request < 3; request++) await isBlocked(limiter, "192.0.2.9", null);
        assert.equal(await ask(limiter, CALLER), 200);
        const events = await recorded(limiter, (events) => assert.equal(sum(events), 3));
        for (const event of events) has(event, { kind: "denied", caller: "192.0.2.9", status: 429 });
      });

      it("admitted requests are recorded if they are sampled", async () => {
        const limiter = await start({ RATE_LIMIT_EVENT_SAMPLE: "1", RATE_LIMIT_GENERAL: `3,${HOUR_S}` });
        for (const status of [200, 200, 200, 429]) assert.equal(await ask(limiter, CALLER, "/sampled"), status);
        const events = await recorded(limiter, (events) => assert.equal(sum(events), 4));
        const of = (kind) => events.filter((event) => event.kind === kind);
        assert.deepEqual([sum(of("admitted")), sum(of("denied"))], [3, 1]);
        for (const event of of("admitted")) has(event, { caller: CALLER, method: "GET", path: "/sampled", status: 200 });
        // Admitted requests do not make a caller suspicious.
        has(await good(limiter, "GET", "suspicious?hours=2"), { callers: [{ caller: CALLER, denied: 1, policies: { general: 1 } }] });
      });

      it("uses of the bypass token are recorded", async () => {
        const limiter = await start({ RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN });
        const headers = { "X-RateLimit-Bypass": BYPASS_TOKEN };
        for (let request = 0; request < 3; request++) assert.equal((await get(limiter, CALLER, "/in", { headers })).status, 200);
        const events = await recorded(limiter, (events) => assert.equal(sum(events), 3));
        for (const event of events) has(event, { kind: "bypassed", caller: CALLER, method: "GET", path: "/in" });
      });

      it("wrong tokens at the control plane are recorded", async () => {
        const limiter = await start();
        for (const token of ["wrong", "wrong too", ADMIN_TOKEN.slice(1)]) await refused(401, limiter, "GET", "blocked", { token, from: "192.0.2.66" });
        await refused(401, limiter, "DELETE", "blocked/192.0.2.1", { token: "wrong", from: "192.0.2.67" });
        const events = await recorded(limiter, (events) => assert.equal(sum(events), 4));
        const of = (from) => events.filter(({ caller }) => caller === from);
        assert.deepEqual([sum(of("192.0.2.66")), sum(of("192.0.2.67"))], [3, 1]);
        for (const event of of("192.0.2.66")) has(event, { kind: "refused", method: "GET", path: "/_limiter/blocked", status: 401 });
        for (const event of of("192.0.2.67")) has(event, { kind: "refused", method: "DELETE", path: "/_limiter/blocked/192.0.2.1", status: 401 });
        assert.ok(!JSON.stringify(events).includes("wrong"), "an event contains a token");
        assert.deepEqual(of(OPERATOR), []);
      });
    });
  }

  it("events in Redis come from all processes, and outlive them", async () => {
    const vars = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_IP: "off" };
    const [one, other] = await Promise.all([shared.limiter(vars), shared.limiter(vars)]);
    for (const [limiter, caller] of [[one, "192.0.2.1"], [other, "192.0.2.2"]]) {
      for (const status of [200, 429, 429]) assert.equal(await ask(limiter, caller), status);
    }
    await recorded(one, (events) => assert.equal(sum(events), 4));
    await one.stop();
    const events = await recorded(other, (events) => assert.equal(sum(events), 4));
    assert.deepEqual([...new Set(events.map(({ caller }) => caller))].sort(), ["192.0.2.1", "192.0.2.2"]);
    const { callers } = await good(other, "GET", "suspicious?hours=2");
    assert.deepEqual(callers.map(({ denied }) => denied), [2, 2]);
    // All keys expire.
    const redis = await standIn.redis.client();
    for (const key of (await redis.keys("*")).filter((key) => /events|suspicious/.test(key))) assert.ok((await redis.pTTL(key)) > 0, key);
    await redis.destroy();
  });

  it("events that cannot be written delay no request, and lists that cannot be read are answered 503", async () => {
    const limiter = await shared.warm({ ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_IP: "off", REDIS_MAX_RECONNECT_ATTEMPTS: 0 });
    for (const status of [200, 429]) assert.equal(await ask(limiter, CALLER), status);
    standIn.faults.set({ kind: "unauthorized" });
    for (const path of ["events", "suspicious"]) await refused(503, limiter, "GET", path);
    await refused(503, limiter, "DELETE", "events?older_than_seconds=1");
    standIn.faults.clear();
    await eventually(async () => assert.equal((await control(limiter, "GET", "events")).status, 200));
    assert.equal(await ask(limiter, CALLER), 429);
    await recorded(limiter, (events, left) => assert.ok(sum(events) + left >= 1));
  });
});

/**
 * The Redis user of docs/redis.md. Its commands and keys are enough for every call of the limiter, and the limiter needs each of the
 * commands.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import {
  ADMIN_TOKEN, BYPASS_TOKEN, CHECK_TOKEN, ELSEWHERE_MS, RECORDED_MS, blocked, eventually, get, good, has, isAdmitted, isBlocked, usage,
} from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { ask } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { ON_DEMAND, runSchedule } from "../harness/schedule.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { startRedis } from "../upstash/redis-server.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";

const GUIDE = new URL("../../docs/redis.md", import.meta.url);

/** User, password, prefix and commands, read from the ACL SETUSER command in the guide. */
const [, NAME, PASSWORD, PREFIX, GRANTED] = /^ACL SETUSER (\S+) on >(\S+) resetkeys ~(\S+)\* resetchannels -@all (.*)$/m.exec(
  readFileSync(GUIDE, "utf8").replaceAll(/ \\\n\s*/g, " "),
);
const COMMANDS = GRANTED.split(" ").map((rule) => rule.replace(/^\+/, ""));

describe("the Redis user of docs/redis.md", () => {
  let redis, admin;
  before(async () => {
    redis = await startRedis();
    admin = await redis.client();
  });
  after(() => redis?.stop());

  const VARS = {
    ADMIN_TOKEN, CHECK_TOKEN, RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN, RATE_LIMIT_GENERAL: `3,${HOUR_S}`, RATE_LIMIT_AUTH: `2,${HOUR_S},600`, RATE_LIMIT_OPEN: `1000,${HOUR_S}`,
    RATE_LIMIT_BUCKET: "5,60", RATE_LIMIT_LEASED: "1000,60", RATE_LIMIT_IP: "off", RATE_LIMIT_ESCALATION: "5,600,600", RATE_LIMIT_EVENT_SAMPLE: "1",
    RATE_LIMIT_POLICIES: { bucket: { algorithm: "token-bucket" }, leased: { algorithm: "fixed-window", lease: 10 }, open: { mode: "shadow" } },
    RATE_LIMIT_ROUTES: [
      { path: "/auth", policies: ["auth"] }, { path: "/open", policies: ["open"] }, { path: "/bucket", policies: ["bucket"] }, { path: "/leased", policies: ["leased"] },
    ],
    RATE_LIMIT_METRICS_SECONDS: 1, REDIS_KEY_PREFIX: PREFIX, REDIS_TIMEOUT: 30000,
  };

  /**
   * Creates the user with these commands, and a stand-in that calls Redis as that user. `start` starts a limiter. `outcome` returns the
   * commands that ran and the refusals that Redis has logged.
   */
  async function asUserWith(t, commands) {
    await admin.flushAll();
    await admin.sendCommand(["SCRIPT", "FLUSH"]);
    await admin.sendCommand(["ACL", "LOG", "RESET"]);
    await admin.sendCommand(["ACL", "DELUSER", NAME]);
    await admin.sendCommand(["ACL", "SETUSER", NAME, "on", `>${PASSWORD}`, "resetkeys", `~${PREFIX}*`, "resetchannels", "-@all", ...commands.map((name) => `+${name}`)]);
    const standIn = await startStandIn({ redis, user: { name: NAME, password: PASSWORD } });
    const limiters = [];
    t.after(async () => {
      await Promise.all(limiters.map((limiter) => limiter.stop()));
      await standIn.stop();
    });
    const start = async () => {
      const limiter = await startWorkerd({ modules: ON_DEMAND, vars: { ...VARS, UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token } });
      limiters.push(limiter);
      return limiter;
    };
    const outcome = async () => ({ ran: await standIn.ran(), refused: (await admin.sendCommand(["ACL", "LOG"])).map((entry) => String(Object.fromEntries(pairs(entry)).object)) });
    return { standIn, start, outcome };
  }

  const pairs = (list) => (Array.isArray(list) ? Array.from({ length: list.length / 2 }, (_, place) => [list[2 * place], list[2 * place + 1]]) : Object.entries(list));

  it("the user's commands are exactly those that the limiter needs", async (t) => {
    const { standIn, start, outcome } = await asUserWith(t, COMMANDS);
    const limiter = await start();

    // Traffic: each algorithm, a lease, a shadow policy, denials, a policy's block, the bypass token.
    for (const path of ["/bucket", "/leased", "/open"]) assert.equal(await ask(limiter, CALLER, path), 200);
    for (const status of [200, 200, 429, 429]) assert.equal(await ask(limiter, CALLER, "/auth"), status);
    assert.equal((await get(limiter, CALLER, "/auth", { headers: { "X-RateLimit-Bypass": BYPASS_TOKEN } })).status, 200);
    for (const status of [200, 200, 200, 429]) assert.equal(await ask(limiter, "192.0.2.2"), status);

    // An operator's blocks, of addresses and ranges, with and without an end: set, read, listed and lifted.
    for (const [target, json] of [["198.51.100.1", { seconds: 600 }], ["198.51.100.2", { reason: "test" }], ["203.0.113.0/24", { seconds: 600 }], ["198.51.101.0/24", {}]]) {
      await good(limiter, "PUT", blocked(target), { json });
      has(await good(limiter, "GET", blocked(target)), { blocked: true });
    }
    assert.equal((await good(limiter, "GET", "blocked?limit=2")).blocked.length, 2);
    await isBlocked(limiter, "198.51.100.2", null);
    for (const target of ["198.51.100.1", "203.0.113.0/24"]) has(await good(limiter, "DELETE", blocked(target)), { lifted: true });

    // Checks and usage.
    has(await good(limiter, "POST", "check", { json: { policy: "bucket", identifier: "id:one" }, token: CHECK_TOKEN }), { allowed: true });
    has(await good(limiter, "GET", usage("auth", CALLER)), { used: 2 });

    // Events, an escalation that blocks, and the list of policies' blocks.
    for (let denial = 0; denial < 8; denial++) assert.equal(await ask(limiter, "192.0.2.2"), 429);
    await eventually(async () => has(await good(limiter, "GET", blocked("192.0.2.2")), { blocked: true, by: "escalation" }), RECORDED_MS);
    await eventually(async () => {
      const { events } = await good(limiter, "GET", "events?limit=100");
      for (const kind of ["bypassed", "escalated"]) assert.ok(events.some((event) => event.kind === kind), kind);
      assert.equal((await good(limiter, "GET", "suspicious?hours=2")).callers[0].caller, "192.0.2.2");
      assert.equal((await good(limiter, "GET", "blocked")).policies.length, 1);
    }, RECORDED_MS);
    has(await good(limiter, "DELETE", blocked("192.0.2.2")), { lifted: true });
    has(await good(limiter, "DELETE", blocked(CALLER)), { policies_lifted: 1 });
    has(await good(limiter, "DELETE", usage("auth", CALLER)), { reset: true });
    await good(limiter, "DELETE", "events?older_than_seconds=1");

    // More callers than one batch of events holds. Repeated until the requests fall into one batch.
    await eventually(async () => {
      await Promise.all(Array.from({ length: 250 }, (_, number) => get(limiter, `10.0.0.${number}`, "/open")));
      assert.ok((await good(limiter, "GET", "events?limit=1")).left_out > 0);
    }, 2 * RECORDED_MS, 1000);

    // Redis fails, and the isolate reconciles what it admitted meanwhile.
    standIn.faults.set({ kind: "status", status: 400, body: '{"error":"OOM command not allowed"}' });
    assert.equal(await ask(limiter, CALLER, "/bucket"), 200);
    standIn.faults.clear();
    await eventually(async () => {
      assert.equal(await ask(limiter, "192.0.2.9", "/open"), 200);
      assert.ok((await admin.keys(`${PREFIX}absorbed:*`)).length > 0);
    }, ELSEWHERE_MS);

    // The most ranges that may exist, all of them expired. A new range removes them.
    const expired = JSON.stringify({ until: 1000, since: 1, by: "operator", reason: null });
    await admin.hSet(`${PREFIX}blocked_ranges`, Object.fromEntries(Array.from({ length: 10_000 }, (_, number) => [`10.${number >> 8}.${number & 255}.0/24`, expired])));
    await good(limiter, "PUT", blocked("203.0.113.0/24"), { json: {} });
    assert.ok((await admin.hLen(`${PREFIX}blocked_ranges`)) < 10);

    // Redis loses blocks. An isolate that starts restores an address's record, and one that has a copy restores the ranges.
    await admin.del([`${PREFIX}blocked:198.51.100.2`]);
    const other = await start();
    await eventually(() => isBlocked(other, "198.51.100.2", null));
    await eventually(async () => assert.equal(await admin.exists(`${PREFIX}blocked:198.51.100.2`), 1));
    await admin.del([`${PREFIX}blocked_ranges`, `${PREFIX}blocked_ranges:version`]);
    await eventually(async () => {
      await isAdmitted(other, "192.0.2.10", "/open");
      assert.equal(await admin.hExists(`${PREFIX}blocked_ranges`, "203.0.113.0/24"), 1);
    }, 60_000, 500);

    // Metrics: isolates send counts, the schedule folds and gathers them, and the control plane reads them.
    await runSchedule(limiter);
    assert.equal((await send(limiter.url, { path: "/_limiter/metrics", headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } })).status, 200);
    for (const window of ["hour", "day", "month"]) assert.ok((await good(limiter, "GET", `series?window=${window}`)).buckets.length > 0, window);
    const { keys, redis: figures } = await good(limiter, "GET", "store");
    assert.ok(keys.count > 0 && figures.memory_used_bytes > 0);
    assert.ok((await good(limiter, "GET", "operations?limit=5")).operations.length > 0);

    has(await good(limiter, "GET", "health"), { status: "ok" });
    await delay(3500); // until the isolates have sent their last records
    const { ran, refused } = await outcome();
    assert.deepEqual(refused, [], "Redis should refuse no command");
    assert.deepEqual([...ran].map((name) => name.toLowerCase()).sort(), [...COMMANDS].sort());
  });

  it("Redis refuses a command that the user lacks", async (t) => {
    for (const missing of ["mget", "zadd"]) {
      const { start, outcome } = await asUserWith(t, COMMANDS.filter((name) => name !== missing));
      const limiter = await start();
      await ask(limiter, CALLER);
      await good(limiter, "PUT", blocked("198.51.100.1"), { json: {} }).catch(() => {});
      await eventually(async () => assert.ok((await outcome()).refused.includes(missing)));
    }
  });

  it("the user can access only the limiter's keys", async (t) => {
    await asUserWith(t, COMMANDS);
    const client = await redis.client();
    await client.sendCommand(["AUTH", NAME, PASSWORD]);
    assert.equal(await client.get(`${PREFIX}x`), null);
    for (const command of [["GET", "other"], ["SET", "other", "x"], ["FLUSHALL"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["EVAL", "return redis.call('GET', KEYS[1])", "1", "other"], ["EVAL", `return redis.call('FLUSHALL')`, "0"]]) {
      await assert.rejects(client.sendCommand(command), /NOPERM|ACL failure|can't run this command|permission/i, command.join(" "));
    }
  });
});

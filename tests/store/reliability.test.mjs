/**
 * The fault suite: under steady load, the store fails in every known way and recovers. Meanwhile callers within their limit are
 * admitted, a caller over its limit gets no more than the limit allows, and `deny` answers 503. The limiter hardly calls the failing
 * store, and after recovery the store has counted everything that was admitted.
 *
 * The suite prints its results as a table. `WRITE_DOCS=1` writes the table to docs/reliability.md.
 */

import assert from "node:assert/strict";
import { after, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ADMIN_TOKEN } from "../harness/control.mjs";
import { PREFIX } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { FAULTS, Store } from "./reliability/faults.mjs";
import { CALLERS_WITHIN, FALLBACK_LIMIT, HEAD_START, IN_FLIGHT, LIMIT, Load, POLICIES, VARS } from "./reliability/load.mjs";
import { row, table, writeDocs } from "./reliability/matrix.mjs";

/** Faults that are tested in parallel. Each test spends most of its time waiting. */
const TESTS_AT_ONCE = 3;

const DOUBLINGS = 3;
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = FIRST_WAIT_MS * 2 ** DOUBLINGS;
/** Consecutive failures that open the breaker. */
const FAILURES_TO_OPEN = 5;

/** How much longer anything may take on a busy machine. */
const ALLOWANCE_MS = 5000;

/** The breaker's state changes, by the log lines that report them. */
const CHANGES = [
  ["open", /Redis failed: (.*); it is not called for (\d+) ms, and each policy's on_store_failure decides until then$/],
  ["half-open", /Redis: a probe checks whether it answers again$/],
  ["closed", /Redis answers again, and limits are shared again$/],
];

/** Returns how many waits of an open breaker can pass within `ms` at most. A wait lasts at least half of its nominal length. */
function maxWaits(ms, { permanent }) {
  for (let waits = 0; ; waits++) {
    const doublings = permanent ? DOUBLINGS : Math.min(waits, DOUBLINGS);
    ms -= (FIRST_WAIT_MS * 2 ** doublings) / 2;
    if (ms < 0) return waits;
  }
}

const INTRODUCTION = `Measured on workerd and a real Redis behind a stand-in for Upstash's REST API. Each policy admits ${LIMIT} requests an
hour. On each, ${CALLERS_WITHIN} callers stay within the limit and one goes far over it; that one had sent ${HEAD_START} requests when the
fault began. The fallback factor is ${FALLBACK_LIMIT / LIMIT}, and the breaker's longest wait is ${LONGEST_WAIT_MS} ms. The table counts what
happened while the fault lasted.`;

/** One limiter under load whose store fails in one way and recovers. */
class FaultRun {
  constructor(fault) {
    this.fault = fault;
  }

  async start() {
    this.store = await Store.start(this.fault);
    const { url, token } = this.store.standIn;
    this.limiter = await startWorkerd({
      vars: {
        ...VARS,
        ADMIN_TOKEN,
        UPSTASH_REDIS_REST_URL: url,
        UPSTASH_REDIS_REST_TOKEN: token,
        REDIS_KEY_PREFIX: PREFIX,
        REDIS_TIMEOUT: this.fault.timeout,
        REDIS_MAX_RECONNECT_ATTEMPTS: DOUBLINGS,
      },
    });
    this.load = new Load(this.limiter.url);
    // On a busy machine an isolate's first requests can take longer than a short REDIS_TIMEOUT. One fewer than would open the breaker.
    for (let request = 0; request < FAILURES_TO_OPEN - 1; request++) {
      await send(this.limiter.url, { path: "/memory", headers: { "CF-Connecting-IP": "198.18.9.1" } });
    }
  }

  async stop() {
    await this.load?.stop().catch(() => {}); // the test has already reported its failure
    await this.limiter?.stop();
    await this.store?.stop();
  }

  /** Returns health as an operator sees it. */
  async health() {
    const headers = { Authorization: `Bearer ${ADMIN_TOKEN}`, "CF-Connecting-IP": "198.18.9.9" };
    return (await send(this.limiter.url, { path: "/_limiter/health", headers })).json();
  }

  /**
   * Returns the breaker's logged state changes. Any other log line fails the test. The order is not kept, because warnings are
   * printed on another stream.
   */
  changes() {
    return this.limiter.logs().split("\n").filter(Boolean).map((line) => {
      const change = CHANGES.find(([, pattern]) => pattern.test(line));
      assert.ok(change, `unexpected log line: ${line}`);
      const [, why, wait] = change[1].exec(line);
      if (change[0] === "open") {
        assert.equal(why, this.fault.why);
        // The clock moves on by some milliseconds before the wait is logged, so the wait can be shorter.
        assert.ok(Number(wait) <= LONGEST_WAIT_MS, line);
      }
      return change[0];
    });
  }

  async before() {
    const { load } = this;
    load.start();
    await load.until("the answers to the callers' first requests", () =>
      load.within.every((caller) => caller.answers.length >= 3) && load.over.every((caller) => caller.answers.length === HEAD_START));
    assert.deepEqual(this.changes(), []);
    this.expectStore("ok", "upstash", await this.health());
  }

  expectStore(status, store, health) {
    assert.deepEqual([health.status, health.store], [status, store]);
  }

  async break() {
    const { load, store, fault } = this;
    load.phase = "breaking";
    const calls = store.calls();
    this.broken = Date.now();
    await fault.fail(store);
    load.phase = "failing";
    for (const caller of load.over) caller.maxRequests = Infinity;

    if (fault.why !== null) {
      await this.limiter.logged(CHANGES[0][1]);
      await load.answered();
      const health = await this.health();
      this.expectStore("degraded", "memory", health);
      assert.equal(health.failing.why, fault.why);
      assert.ok(health.failing.since >= this.broken && health.failing.since <= Date.now());
    }
    this.first = store.calls() - calls;
    const over = Object.fromEntries(POLICIES.map((policy) => [policy, load.of(policy).over]));
    const denied = (caller) => caller.count(429, ({ from }) => from === "failing") >= 5;
    await load.until("enough answers to the callers over their limit", () => fault.why === null
      ? load.over.every(denied)
      : denied(over.memory) && over.allow.count(200) > FALLBACK_LIMIT && this.changes().filter((change) => change === "open").length > fault.probes);
    load.phase = "recovering";
    this.further = store.calls() - calls - this.first;
    this.lasted = Date.now() - this.broken;
    this.commands = store.commands().slice(-this.first - this.further);
  }

  async recover() {
    const { fault, load, limiter } = this;
    await fault.recover(this.store);
    if (fault.why !== null) {
      const fixedAt = Date.now();
      // A probe in flight may still fail, and health then reports when the next probe is due.
      let promised = fixedAt + fault.timeout * (fault.timeout < LONGEST_WAIT_MS * 2);
      await within((async () => {
        for (;;) {
          const { breaker, failing } = await this.health();
          if (breaker === "closed") return;
          if (failing.next_try) {
            assert.ok(failing.next_try <= Date.now() + LONGEST_WAIT_MS);
            promised = Math.max(promised, failing.next_try);
          }
          await delay(20);
        }
      })(), "the breaker to close", 60_000);
      this.recoveryMs = Date.now() - fixedAt;
      assert.ok(Date.now() <= promised + ALLOWANCE_MS, `the breaker closed ${Date.now() - promised} ms after the promised time`);
      await limiter.logged(CHANGES[2][1]);
    }
    load.phase = "after";
    this.expectStore("ok", "upstash", await this.health());
    const { over } = load.of("deny");
    await load.until("answers to every caller after the recovery", () =>
      load.callers.every((caller) => caller.answers.filter(({ from }) => from === "after").length >= 3) && over.answers.at(-1).status === 429);
  }

  /** Returns the most calls about a caller that Redis may or may not have counted. */
  uncertain(address) {
    if (this.fault.why === null || this.fault.provesNotRun) return 0;
    // Nothing listened, so no call was recorded: assume as many as can have been made.
    if (this.commands.length === 0) return FAILURES_TO_OPEN + 2 * IN_FLIGHT + this.changes().length;
    return 1 + this.commands.filter((command) => command.some((argument) => argument.endsWith(`:${address}`))).length;
  }
}

/** Asserts the status, the headers and the time of every answer. */
function assertAnswers({ fault, load }) {
  const failed = fault.why !== null;
  for (const caller of load.callers) {
    const isWithin = load.within.includes(caller);
    for (const answer of caller.answers) {
      const { from, to, status, store, ms } = answer;
      const details = `${caller.policy}, ${isWithin ? "within" : "over"} its limit: ${JSON.stringify(answer)}`;
      const inOnePhase = from === to;
      const failing = inOnePhase && from === "failing" && failed;
      const healthy = inOnePhase && (from === "before" || from === "after" || !failed);
      const allowed = new Set([200]);
      if (!isWithin && !(failing && caller.policy === "allow")) allowed.add(429);
      if (caller.policy === "deny") {
        if (failing) allowed.clear();
        if (!healthy) allowed.add(503);
      }
      assert.ok(allowed.has(status), details);
      if (status === 503) {
        assert.equal(answer.error, "rate_limit_unavailable", details);
        assert.match(answer.retryAfter, /^[1-9]\d*$/, details);
      } else if (failing || healthy) {
        assert.equal(store, failing ? "memory" : undefined, details);
      }
      assert.ok(ms < fault.timeout + ALLOWANCE_MS, details);
    }
  }
}

/** Asserts that no caller was admitted beyond its limit, and that Redis has counted every admission. */
function assertLimits({ fault, load, uncertain }) {
  for (const caller of load.callers) {
    const { policy, address } = caller;
    const before = caller.count(200, ({ to }) => to === "before");
    const afterwards = caller.count(200, ({ from }) => from === "after");
    const all = caller.count(200);
    const meanwhile = all - before - afterwards;
    const byMemory = caller.count(200, ({ store }) => store === "memory");
    const uncertainCalls = uncertain(address);
    const details = `${policy} ${address}: admitted ${before} before, ${meanwhile} during (${byMemory} by memory) and ${afterwards} after, ${uncertainCalls} uncertain`;
    // A Redis that started again empty no longer counts what it admitted before.
    const known = fault.forgets ? 0 : before;
    if (policy !== "allow") assert.ok(before + byMemory <= FALLBACK_LIMIT && known + meanwhile + afterwards <= FALLBACK_LIMIT + uncertainCalls, details);
    assert.ok(before <= LIMIT && afterwards <= Math.max(0, LIMIT - known - meanwhile + uncertainCalls), details);
    // Redis may have counted calls whose requests were then not admitted.
    const lost = fault.mayRun ? uncertainCalls : 0;
    if (load.over.includes(caller)) {
      // The caller over its limit was also admitted up to its limit.
      assert.ok(all >= LIMIT - lost, details);
      continue;
    }
    const { remaining } = caller.answers.at(-1);
    const expected = LIMIT - known - meanwhile - afterwards;
    assert.ok(remaining <= expected + uncertainCalls + (fault.forgets ? 1 : 0) && remaining >= expected - lost, `${details}, ${remaining} remain`);
  }
}

/** Asserts that the limiter made few calls to the failing store: those that opened the breaker, and one probe for each wait. */
function assertCalls({ fault, first, further, lasted, changes }) {
  if (fault.why === null) return assert.deepEqual(changes, []);
  const count = (change) => changes.filter((one) => one === change).length;
  // A probe follows each opening. Failed probes opened the breaker again, and the last probe closed it.
  assert.deepEqual([count("half-open"), count("closed")], [count("open"), 1]);
  const waits = maxWaits(lasted, fault);
  // Besides the failures that open the breaker, calls may have been in flight when it opened.
  assert.ok(first <= ((fault.permanent ? 1 : FAILURES_TO_OPEN) + 2 * IN_FLIGHT) * fault.calls, `${first} calls until the breaker was open`);
  assert.ok(further <= waits * fault.calls, `${further} calls while the breaker was open, in at most ${waits} waits`);
  // When nothing listens, the stand-in counts no calls: count the logged probes.
  assert.ok(count("half-open") <= maxWaits(lasted + ALLOWANCE_MS, fault));
}

describe("a store that fails under load", { concurrency: TESTS_AT_ONCE }, () => {
  const rows = new Map();
  after(() => {
    const seen = FAULTS.filter((fault) => rows.has(fault)).map((fault) => rows.get(fault));
    console.log(table(seen));
    if (process.env.WRITE_DOCS && seen.length === FAULTS.length) writeDocs(INTRODUCTION, seen);
  });

  for (const fault of FAULTS) {
    it(`limits hold, and Redis decides again after the fault: ${fault.what}`, async () => {
      const run = new FaultRun(fault);
      try {
        await run.start();
        await run.before();
        await run.break();
        await run.recover();
        await run.load.stop();
        await run.limiter.stop(); // after this, everything that it logged has been read
        const seen = { ...run, changes: run.changes(), uncertain: (address) => run.uncertain(address) };
        assertAnswers(seen);
        assertLimits(seen);
        assertCalls(seen);
        rows.set(fault, row(seen));
      } finally {
        await run.stop();
      }
    });
  }
});

/**
 * The fault suite: the store fails in each way that there is, under steady load, and is mended. Callers within their limit
 * notice nothing, one over it gets no more than the limit allows, `deny` answers what it promises, the store is left in
 * peace, and it has counted in the end what was admitted meanwhile.
 *
 * What was seen is printed as a table. `WRITE_DOCS=1` keeps it in docs/reliability.md.
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
import { HEAD_START, IN_FLIGHT, LIMIT, Load, POLICIES, VARS, WIDENED, WITHINS } from "./reliability/load.mjs";
import { keep, row, table } from "./reliability/matrix.mjs";

/** Rows at a time: each is mostly waiting. */
const AT_ONCE = 3;

const DOUBLINGS = 3;
const FIRST_WAIT_MS = 100;
const LONGEST_WAIT_MS = FIRST_WAIT_MS * 2 ** DOUBLINGS;
/** Failures in a row that open the breaker. */
const IN_A_ROW = 5;

/** What a busy machine may add to anything. */
const ALLOWANCE_MS = 5000;

const CHANGES = [
  ["open", /Redis: (.*); not asked for (\d+) ms, on_store_failure rules meanwhile$/],
  ["asks", /Redis: asking whether it answers again$/],
  ["closed", /Redis answers again; limits are shared again$/],
];

/** Waits of an open breaker that have passed within `ms` at the most: each is at least half of its length. */
function mostWaits(ms, { hopeless }) {
  for (let waits = 0; ; waits++) {
    const doublings = hopeless ? DOUBLINGS : Math.min(waits, DOUBLINGS);
    ms -= (FIRST_WAIT_MS * 2 ** doublings) / 2;
    if (ms < 0) return waits;
  }
}

const INTRODUCTION = `On workerd and a real Redis behind a stand-in for Upstash's REST API. Per policy, limited to ${LIMIT} requests an
hour, ${WITHINS} callers ask steadily within their limit and one far over it, which had ${HEAD_START} when the fault came;
the factor is ${WIDENED / LIMIT}, the longest wait ${LONGEST_WAIT_MS} ms. Answers and calls are those while the fault lasted.`;

class Story {
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
    // An isolate's first requests are slow, and on a busy machine later than a short REDIS_TIMEOUT allows.
    for (let request = 0; request < IN_A_ROW - 1; request++) {
      await send(this.limiter.url, { path: "/memory", headers: { "CF-Connecting-IP": "198.18.9.1" } });
    }
  }

  async stop() {
    await this.load?.stop().catch(() => {}); // it has been reported
    await this.limiter?.stop();
    await this.store?.stop();
  }

  /** What the operator sees. */
  async health() {
    const headers = { Authorization: `Bearer ${ADMIN_TOKEN}`, "CF-Connecting-IP": "198.18.9.9" };
    return (await send(this.limiter.url, { path: "/_limiter/health", headers })).json();
  }

  /** The breaker's changes that were logged; nothing else may be. Not in order: warnings have a stream of their own. */
  changes() {
    return this.limiter.logs().split("\n").filter(Boolean).map((line) => {
      const change = CHANGES.find(([, pattern]) => pattern.test(line));
      assert.ok(change, `an unexpected line: ${line}`);
      const [, why, wait] = change[1].exec(line);
      if (change[0] === "open") {
        assert.equal(why, this.fault.why);
        // A whole wait less some milliseconds that the clock has moved on, when it is logged.
        assert.ok(Number(wait) <= LONGEST_WAIT_MS, line);
      }
      return change[0];
    });
  }

  async before() {
    const { load } = this;
    load.start();
    await load.until("the callers' first requests", () =>
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
    for (const caller of load.over) caller.most = Infinity;

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
    await load.until("the callers over their limit", () => fault.why === null
      ? load.over.every(denied)
      : denied(over.memory) && over.allow.count(200) > WIDENED && this.changes().filter((change) => change === "open").length > fault.probes);
    load.phase = "mending";
    this.further = store.calls() - calls - this.first;
    this.lasted = Date.now() - this.broken;
    this.commands = store.commands().slice(-this.first - this.further);
  }

  async mend() {
    const { fault, load, limiter } = this;
    await fault.mend(this.store);
    if (fault.why !== null) {
      const mended = Date.now();
      // A probe that is under way may still fail, and says then when the next is.
      let promised = mended + fault.timeout * (fault.timeout < LONGEST_WAIT_MS * 2);
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
      this.recovered = Date.now() - mended;
      assert.ok(Date.now() <= promised + ALLOWANCE_MS, `${Date.now() - promised} ms later than promised`);
      await limiter.logged(CHANGES[2][1]);
    }
    load.phase = "after";
    this.expectStore("ok", "upstash", await this.health());
    const { over } = load.of("deny");
    await load.until("the callers, once it is over", () =>
      load.callers.every((caller) => caller.answers.filter(({ from }) => from === "after").length >= 3) && over.answers.at(-1).status === 429);
  }

  /** The most calls about a caller of which nobody can say whether Redis has counted them. */
  unclear(address) {
    if (this.fault.why === null || this.fault.clear) return 0;
    // Where nobody listens: as many as there can have been in all.
    if (this.commands.length === 0) return IN_A_ROW + 2 * IN_FLIGHT + this.changes().length;
    return 1 + this.commands.filter((command) => command.some((argument) => argument.endsWith(`:${address}`))).length;
  }
}

/** What every answer has to be. */
function judgeAnswers({ fault, load }) {
  const failed = fault.why !== null;
  for (const caller of load.callers) {
    const isWithin = load.within.includes(caller);
    for (const answer of caller.answers) {
      const { from, to, status, store, ms } = answer;
      const said = `${caller.policy}, ${isWithin ? "within" : "over"} its limit: ${JSON.stringify(answer)}`;
      const whole = from === to;
      const failing = whole && from === "failing" && failed;
      const sound = whole && (from === "before" || from === "after" || !failed);
      const allowed = new Set([200]);
      if (!isWithin && !(failing && caller.policy === "allow")) allowed.add(429);
      if (caller.policy === "deny") {
        if (failing) allowed.clear();
        if (!sound) allowed.add(503);
      }
      assert.ok(allowed.has(status), said);
      if (status === 503) {
        assert.equal(answer.error, "rate_limit_unavailable", said);
        assert.match(answer.retryAfter, /^[1-9]\d*$/, said);
      } else if (failing || sound) {
        assert.equal(store, failing ? "memory" : undefined, said);
      }
      assert.ok(ms < fault.timeout + ALLOWANCE_MS, said);
    }
  }
}

/** Nobody got more than it may have, and Redis knows of all of it. */
function judgeLimits({ fault, load, unclear }) {
  for (const caller of load.callers) {
    const { policy, address } = caller;
    const before = caller.count(200, ({ to }) => to === "before");
    const afterwards = caller.count(200, ({ from }) => from === "after");
    const all = caller.count(200);
    const meanwhile = all - before - afterwards;
    const byMemory = caller.count(200, ({ store }) => store === "memory");
    const open = unclear(address);
    const said = `${policy} ${address}: ${before} + ${meanwhile} (${byMemory} by memory) + ${afterwards}, ${open} unclear`;
    // What Redis had forgotten is nobody's any more.
    const known = fault.forgets ? 0 : before;
    if (policy !== "allow") assert.ok(before + byMemory <= WIDENED && known + meanwhile + afterwards <= WIDENED + open, said);
    assert.ok(before <= LIMIT && afterwards <= Math.max(0, LIMIT - known - meanwhile + open), said);
    // What Redis may have counted for requests that were admitted to nothing.
    const lost = fault.mayRun ? open : 0;
    if (load.over.includes(caller)) {
      // Nor is it held to less.
      assert.ok(all >= LIMIT - lost, said);
      continue;
    }
    const { remaining } = caller.answers.at(-1);
    const expected = LIMIT - known - meanwhile - afterwards;
    assert.ok(remaining <= expected + open + (fault.forgets ? 1 : 0) && remaining >= expected - lost, `${said}, ${remaining} remain`);
  }
}

/** The store was left in peace. */
function judgeCalls({ fault, first, further, lasted, changes }) {
  if (fault.why === null) return assert.deepEqual(changes, []);
  const count = (change) => changes.filter((one) => one === change).length;
  // Opened, each failed probe opened it again, and the last one closed it.
  assert.deepEqual([count("asks"), count("closed")], [count("open"), 1]);
  const waits = mostWaits(lasted, fault);
  // Beside those that it takes, what was under way when it opened.
  assert.ok(first <= ((fault.hopeless ? 1 : IN_A_ROW) + 2 * IN_FLIGHT) * fault.calls, `${first} calls until it was open`);
  assert.ok(further <= waits * fault.calls, `${further} calls while it was open, in at most ${waits} waits`);
  // Where nobody listens, nobody can count.
  assert.ok(count("asks") <= mostWaits(lasted + ALLOWANCE_MS, fault));
}

describe("the store fails under load", { concurrency: AT_ONCE }, () => {
  const rows = new Map();
  after(() => {
    const seen = FAULTS.filter((fault) => rows.has(fault)).map((fault) => rows.get(fault));
    console.log(table(seen));
    if (process.env.WRITE_DOCS && seen.length === FAULTS.length) keep(INTRODUCTION, seen);
  });

  for (const fault of FAULTS) {
    it(fault.what, async () => {
      const story = new Story(fault);
      try {
        await story.start();
        await story.before();
        await story.break();
        await story.mend();
        await story.load.stop();
        await story.limiter.stop(); // and all that it logged has been read
        const seen = { ...story, changes: story.changes(), unclear: (address) => story.unclear(address) };
        judgeAnswers(seen);
        judgeLimits(seen);
        judgeCalls(seen);
        rows.set(fault, row(seen));
      } finally {
        await story.stop();
      }
    });
  }
});

/**
 * Upstash fails and comes back: memory goes on from where its last answers left each caller, and what memory admitted is
 * counted in Redis once. Fault by fault, what a caller sees is elsewhere; here it is about the numbers.
 */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { INSIDE, pass } from "../harness/inside.mjs";
import { DOWN, PREFIX, WINDOW, consumed, startShared } from "../harness/limited.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";

const LIMIT = 30;
const ALGORITHMS = ["sliding-window", "token-bucket", "fixed-window"];
const NO_FAULT = { kind: "delay", ms: 0, times: 1 };

let shared, standIn, redis;
before(async () => {
  shared = await startShared();
  ({ standIn } = shared);
  redis = await standIn.redis.client();
});
after(() => shared?.stop());
beforeEach(() => shared.reset());

/** The breaker waits 50 to 100 ms, each time. */
const start = (vars, options) => shared.warm({
  RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW}`, RATE_LIMIT_IP: "off", REDIS_MAX_RECONNECT_ATTEMPTS: 0, ...vars,
}, options);

const get = (limiter, caller = CALLER, path = "/") => send(limiter.url, { path, headers: { "CF-Connecting-IP": caller } });

/** How many requests of a caller are admitted before the first that is denied, all of them by memory or none. */
async function admitted(limiter, { by, caller = CALLER, path = "/", most = 1000 }) {
  for (let count = 0; count < most; count++) {
    const { status, headers } = await get(limiter, caller, path);
    assert.equal(headers["x-ratelimit-store"], by === "memory" ? "memory" : undefined);
    if (status === 429) return count;
    assert.equal(status, 200);
  }
  return most;
}

const take = (limiter, count, caller, path) => admitted(limiter, { by: "upstash", most: count, caller, path });

/** Asks until Upstash decides again; that answer. `faults`: from now on. */
function recovered(limiter, caller = CALLER, faults = [], path = "/") {
  standIn.faults.set(...faults);
  return within((async () => {
    for (;;) {
      const answer = await get(limiter, caller, path);
      if (answer.headers["x-ratelimit-store"] === undefined && answer.status !== 503) return answer;
    }
  })(), "an answer of Upstash's");
}

/** Waits until so many units of a quota are consumed in Redis: reconciliation comes after the response. */
function reconciled(key, units) {
  return within((async () => {
    const held = async () => ((await redis.exists(PREFIX + key)) ? consumed(redis, key) : 0);
    while ((await held()) < units) await new Promise(setImmediate);
  })(), `${units} of ${key} in Redis`);
}

async function health(limiter) {
  const headers = { Authorization: `Bearer ${ADMIN_TOKEN}` };
  return (await send(limiter.url, { path: "/_limiter/health", headers })).json();
}

describe("what is left when Upstash fails", () => {
  for (const algorithm of ALGORITHMS) {
    for (const [factor, more] of [["1", 5], ["1.2", 11]]) {
      it(`${algorithm}, factor ${factor}: 5 of ${LIMIT} are ${more} from memory, and Redis is full afterwards`, async () => {
        const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } }, RATE_LIMIT_FALLBACK_FACTOR: factor });
        assert.equal(await take(limiter, 25), 25);
        standIn.faults.set(DOWN);
        assert.equal(await admitted(limiter, { by: "memory" }), more);
        assert.equal(await consumed(redis, `general:${CALLER}`), 25);
        assert.equal((await recovered(limiter)).status, 429);
        assert.equal(await consumed(redis, `general:${CALLER}`), LIMIT);
      });
    }

    it(`${algorithm}: what memory admitted is counted once, be the answer lost that would have said so`, async () => {
      const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } } });
      assert.equal(await take(limiter, 10), 10);
      standIn.faults.set({ ...DOWN, times: 3 }, { kind: "reset", after: true, times: 1 });
      assert.equal(await admitted(limiter, { by: "memory", most: 4 }), 4);
      // The fourth was decided by Redis, too, together with the backlog.
      assert.equal(await consumed(redis, `general:${CALLER}`), 10 + 3 + 1);
      assert.equal(await take(limiter, 1), 1);
      assert.equal(await consumed(redis, `general:${CALLER}`), 10 + 3 + 1 + 1);
      assert.equal(await take(limiter, LIMIT), LIMIT - 15);
    });

    it(`${algorithm}: the backlog of callers that do not come back is reconciled in the background, once, even if an answer is lost`, async () => {
      const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } }, REDIS_RETRY_DELAY: 1 });
      const callers = Array.from({ length: 20 }, (_, i) => `192.0.2.${100 + i}`);
      for (const caller of callers) assert.equal(await take(limiter, 2, caller), 2);
      standIn.faults.set(DOWN);
      for (const caller of callers) assert.equal(await admitted(limiter, { by: "memory", most: 3, caller }), 3);
      // Sixteen of them in a call: the probe is answered, and the first of the calls is lost.
      await recovered(limiter, CALLER, [NO_FAULT, { kind: "reset", after: true, times: 1 }]);
      for (const caller of callers) await reconciled(`general:${caller}`, 5);
      // By the second call, so the first has been repeated.
      assert.deepEqual(standIn.faults.active(), []);
      for (const caller of callers) assert.equal(await consumed(redis, `general:${caller}`), 5);
    });
  }
});

describe("reconciliation", () => {
  it("is repeated REDIS_RETRY_COUNT times, and a decision is not", async () => {
    for (const retries of [0, 3]) {
      const limiter = await start({ REDIS_RETRY_COUNT: retries, REDIS_RETRY_DELAY: 1 });
      // Closed still, so that no probe comes in between.
      standIn.faults.set({ ...DOWN, times: 1 });
      let { count } = standIn.requests();
      assert.equal(await admitted(limiter, { by: "memory", most: 1 }), 1);
      assert.equal(standIn.requests().count - count, 1);
      // The other's decision, the call that reconciles, and its repetitions.
      count = standIn.requests().count;
      standIn.faults.set(NO_FAULT, { ...DOWN, times: 1 + retries });
      assert.equal(await take(limiter, 1, "192.0.2.2"), 1);
      await within((async () => {
        while (standIn.faults.active().length > 0) await new Promise(setImmediate);
      })(), "every attempt");
      // None after them: the next call is the next decision.
      assert.equal(await take(limiter, 1, "192.0.2.3"), 1);
      assert.equal(standIn.requests().count - count, 1 + (1 + retries) + 1);
      await shared.reset();
    }
  });

  it("is made up for by the next one, should it fail as often as it is repeated", async () => {
    const limiter = await start({ REDIS_RETRY_COUNT: 0 }, { modules: INSIDE });
    standIn.faults.set({ ...DOWN, times: 1 });
    assert.equal(await admitted(limiter, { by: "memory", most: 1 }), 1);
    standIn.faults.set(NO_FAULT, { ...DOWN, times: 1 });
    assert.equal(await take(limiter, 1, "192.0.2.2"), 1);
    await within((async () => {
      while (standIn.faults.active().length > 0) await new Promise(setImmediate);
    })(), "the attempt");
    await pass(limiter, 10_000);
    assert.equal(await take(limiter, 1, "192.0.2.3"), 1);
    await reconciled(`general:${CALLER}`, 1);
  });

  it("takes the caller to its limit and no further, whatever the verdict", async () => {
    const limiter = await start({ RATE_LIMIT_FALLBACK_FACTOR: "2" });
    assert.equal(await take(limiter, 25), 25);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory" }), 35);
    await recovered(limiter, "192.0.2.2");
    await reconciled(`general:${CALLER}`, LIMIT);
    assert.equal((await get(limiter)).status, 429);
    assert.equal(await consumed(redis, `general:${CALLER}`), LIMIT);
    // It ends when all its units do, as ever.
    const rest = await redis.pTTL(`${PREFIX}general:${CALLER}`);
    assert.ok(rest > 0 && rest <= WINDOW * 1000 * (1 + 1 / 60) + 2000 + 1000, `${rest}`);
  });
});

describe("a fleet", () => {
  for (const algorithm of ALGORITHMS) {
    it(`${algorithm}: two isolates admit twice the factor times the limit at most, and Redis says the limit afterwards`, async () => {
      const limiters = await Promise.all([1, 2].map(() => start({ RATE_LIMIT_POLICIES: { general: { algorithm } } })));
      // The first asks from the first isolate alone: the other one does not know of it.
      assert.equal(await take(limiters[0], 20), 20);
      standIn.faults.set(DOWN);
      const widened = LIMIT * 1.2;
      const both = await Promise.all(limiters.map((limiter) => admitted(limiter, { by: "memory" })));
      assert.deepEqual(both, [widened - 20, widened]);
      assert.ok(20 + both[0] + both[1] <= 2 * widened);
      for (const limiter of limiters) assert.equal((await recovered(limiter)).status, 429);
      assert.equal(await consumed(redis, `general:${CALLER}`), LIMIT);
    });
  }
});

describe("on_store_failure", () => {
  const policies = (rules) => Object.fromEntries(Object.entries(rules).map(([name, rule]) => [name, { on_store_failure: rule }]));
  const RULES = {
    RATE_LIMIT_OPEN: `2,${WINDOW}`,
    RATE_LIMIT_OWN: `4,${WINDOW}`,
    RATE_LIMIT_SHUT: `100,${WINDOW}`,
    RATE_LIMIT_POLICIES: policies({ open: "allow", own: "memory", shut: "deny" }),
    RATE_LIMIT_ROUTES: [
      { path: "/open", policies: ["open"] },
      { path: "/open-own", policies: ["open", "own"] },
      { path: "/open-shut", policies: ["open", "shut"] },
      { path: "/shut", policies: ["shut"] },
    ],
    RATE_LIMIT_FALLBACK_FACTOR: "1",
  };

  it("`allow` denies nobody, and what it admits is counted up to the limit", async () => {
    const limiter = await start(RULES);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory", path: "/open", most: 20 }), 20);
    await recovered(limiter, "192.0.2.2");
    await reconciled(`open:${CALLER}`, 2);
    assert.equal((await get(limiter, CALLER, "/open")).status, 429);
  });

  it("`allow` lets go of who was denied before as well, once that is due to be asked for", async () => {
    const limiter = await start(RULES, { modules: INSIDE });
    assert.equal(await take(limiter, 3, CALLER, "/open"), 2);
    standIn.faults.set(DOWN);
    await pass(limiter, 10_000);
    assert.equal(await admitted(limiter, { by: "memory", path: "/open", most: 10 }), 10);
    assert.equal((await recovered(limiter, CALLER, [], "/open")).status, 429);
  });

  it("the strictest of a request's policies rules", async () => {
    const limiter = await start(RULES);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory", path: "/open-own" }), 4);
    assert.equal((await get(limiter, CALLER, "/open-shut")).status, 503);
    assert.equal((await get(limiter, CALLER, "/open")).status, 200);
    await recovered(limiter, "192.0.2.2");
    await reconciled(`own:${CALLER}`, 4);
    await reconciled(`open:${CALLER}`, 2);
  });

  it("`deny` answers 503 from the first failure on, as long as the breaker is open, and no longer", async () => {
    const limiter = await start({ ...RULES, ADMIN_TOKEN });
    assert.equal((await get(limiter, CALLER, "/shut")).status, 200);
    standIn.faults.set(DOWN);
    for (let request = 0; request < 12; request++) {
      assert.equal((await health(limiter)).breaker, request < 5 ? "closed" : "open");
      const answer = await get(limiter, CALLER, "/shut");
      assert.equal(answer.status, 503);
      const { error, message } = answer.json();
      assert.deepEqual([error, typeof message], ["rate_limit_unavailable", "string"]);
      assert.equal(answer.headers["retry-after"], "1");
      assert.equal(answer.headers["cache-control"], "no-store");
      assert.deepEqual(Object.keys(answer.headers).filter((name) => name.startsWith("x-ratelimit")), []);
    }
    await recovered(limiter, "192.0.2.2");
    // Nothing was admitted meanwhile, nor counted.
    assert.equal((await get(limiter, CALLER, "/shut")).headers["x-ratelimit-remaining"], "98");
  });

  it("`deny` says when to come back: when the breaker next lets a request through", async () => {
    const limiter = await start({ ...RULES, ADMIN_TOKEN, REDIS_MAX_RECONNECT_ATTEMPTS: 20 });
    // A refused token is for an operator to mend: the longest wait at once, 29 hours, or half of it.
    standIn.faults.set({ kind: "unauthorized" });
    assert.equal((await get(limiter, CALLER, "/shut")).headers["retry-after"], "1");
    const { failing } = await health(limiter);
    const seconds = Number((await get(limiter, CALLER, "/shut")).headers["retry-after"]);
    const longest = 0.1 * 2 ** 20;
    assert.ok(seconds > longest / 2 && seconds <= longest + 1, `${seconds}`);
    assert.ok(Math.abs(failing.next_try - (Date.now() + seconds * 1000)) < 30_000);
  });

  it("a block that a policy with `allow` has set holds on, for requests of any cost", async () => {
    const limiter = await start({
      RATE_LIMIT_OPEN: `2,${WINDOW},${HOUR_S}`,
      RATE_LIMIT_POLICIES: policies({ open: "allow" }),
      RATE_LIMIT_ROUTES: [{ path: "/dear", policies: ["open"], cost: 2 }, { path: "/**", policies: ["open"] }],
    }, { modules: INSIDE });
    assert.equal(await take(limiter, 3), 2);
    standIn.faults.set(DOWN);
    for (let time = 0; time < 8; time++) {
      for (const path of ["/", "/dear"]) {
        const answer = await get(limiter, CALLER, path);
        assert.deepEqual([answer.status, answer.json().blocked], [429, true], path);
      }
      // The remembered denial is due to be asked for again, and stands for want of an answer.
      await pass(limiter, 10_000);
    }
    assert.equal((await get(limiter, "192.0.2.2")).status, 200);
    await pass(limiter, HOUR_S * 1000);
    assert.equal((await get(limiter)).status, 200);
  });
});

describe("blocks and denials during an outage", () => {
  it("those that were known stand, an operator's too, and those to come are set", async () => {
    const limiter = await start({ RATE_LIMIT_GENERAL: `2,60,${HOUR_S}`, RATE_LIMIT_FALLBACK_FACTOR: "1" }, { modules: INSIDE });
    const [denied, blocked] = ["192.0.2.2", "192.0.2.3"];
    assert.equal(await take(limiter, 3, denied), 2);
    await redis.set(`${PREFIX}blocked:${blocked}`, "{}");
    assert.equal((await get(limiter, blocked)).status, 429);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory" }), 2);
    // Long after the window: blocks alone deny them.
    for (const ms of [0, 10_000, 10_000, 120_000]) {
      await pass(limiter, ms);
      for (const caller of [denied, blocked, CALLER]) {
        const answer = await get(limiter, caller);
        assert.deepEqual([answer.status, answer.json().blocked], [429, true], caller);
      }
    }
    await pass(limiter, HOUR_S * 1000);
    for (const caller of [denied, CALLER]) assert.equal((await get(limiter, caller)).status, 200, caller);
    assert.equal((await get(limiter, blocked)).status, 429, "no end, no release");
  });
});

describe("what is said of it", () => {
  it("X-RateLimit-Store is there while memory decides, and an origin's own header of that name is not", async () => {
    const origin = await startOrigin((_, response) => response.writeHead(200, { "X-RateLimit-Store": "the origin's" }).end());
    try {
      const limiter = await start({ ORIGIN_URL: origin.url, RATE_LIMIT_GENERAL: `2,${WINDOW}`, RATE_LIMIT_FALLBACK_FACTOR: "1" });
      const store = async (caller) => (await get(limiter, caller)).headers["x-ratelimit-store"];
      assert.equal(await store(), undefined);
      standIn.faults.set(DOWN);
      assert.deepEqual([await store(), await store()], ["memory", "memory"], "admitted or not");
      await recovered(limiter, "192.0.2.2");
      assert.deepEqual([await store(), await store()], [undefined, undefined]);
    } finally {
      await origin.stop();
    }
  });

  it("where memory is the store, nothing is degraded", async () => {
    const limiter = await shared.limiter({ REDIS_ENABLED: false });
    const { status, headers } = await get(limiter);
    assert.deepEqual([status, headers["x-ratelimit-store"]], [200, undefined]);
  });

  it("health: closed, open, half-open and closed again; since when, why and when next for an operator alone", async () => {
    const limiter = await start({ ADMIN_TOKEN });
    const states = async () => {
      const { status, store, breaker, failing } = await health(limiter);
      return [[status, store, breaker].join(" "), failing];
    };
    assert.deepEqual(await states(), ["ok upstash closed", undefined]);
    const from = Date.now();
    standIn.faults.set(DOWN);
    for (let failure = 1; failure <= 5; failure++) {
      assert.deepEqual(await states(), ["ok upstash closed", undefined], "one failure is one request's");
      assert.equal((await get(limiter)).status, 200);
    }
    const [open, failing] = await states();
    assert.equal(open, "degraded memory open");
    const { since, why, next_try: next, ...rest } = failing;
    assert.deepEqual(rest, {});
    assert.ok(since >= from && since <= Date.now(), `${since}`);
    assert.equal(why, "Redis refused the command: OOM");
    // A tenth of a second, of which chance takes up to half.
    assert.ok(next >= since + 50 && next <= since + 100, `${next - since}`);
    const publicly = (await send(limiter.url, { path: "/_limiter/health" })).json();
    assert.deepEqual(Object.keys(publicly).sort(), ["breaker", "status", "store", "version"]);

    standIn.faults.set({ kind: "hang" });
    const { count } = standIn.requests();
    await within((async () => {
      while (standIn.requests().count === count) await get(limiter);
    })(), "the probe");
    const [probing, meanwhile] = await states();
    assert.equal(probing, "degraded memory half-open");
    assert.deepEqual([meanwhile.since, meanwhile.why, meanwhile.next_try], [since, why, null]);
    assert.equal((await get(limiter, "192.0.2.2")).headers["x-ratelimit-store"], "memory");
  });

  it("health: open again after a probe that fails, since the same moment, and closed after one that does not", async () => {
    const limiter = await start({ ADMIN_TOKEN });
    standIn.faults.set(DOWN);
    for (let failure = 1; failure <= 5; failure++) await get(limiter);
    const { failing: first } = await health(limiter);
    standIn.faults.set({ kind: "unauthorized", times: 1 });
    await within((async () => {
      while (standIn.faults.active().length > 0) await get(limiter, "192.0.2.2");
    })(), "a probe");
    const { breaker, failing: second } = await within((async () => {
      for (;;) {
        const answer = await health(limiter);
        if (answer.breaker !== "half-open") return answer;
      }
    })(), "its outcome");
    assert.deepEqual([breaker, second.since], ["open", first.since]);
    assert.match(second.why, /the token or password was refused/);
    assert.ok(second.next_try > first.next_try);
    await recovered(limiter, "192.0.2.2");
    const { version: _, ...well } = await health(limiter);
    assert.deepEqual(well, { status: "ok", store: "upstash", breaker: "closed", script: "flagged", errors: [], warnings: [] });
  });
});

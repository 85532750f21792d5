/**
 * Upstash fails and recovers. Memory continues from the last state that Upstash returned for each caller, and Redis counts what memory
 * admitted once. This file tests the numbers; store-faults.test.mjs and reliability.test.mjs test what callers see of each fault.
 */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { INSIDE, advanceClock } from "../harness/inside.mjs";
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

/** Starts a limiter whose breaker waits 50 to 100 ms each time. */
const start = (vars, options) => shared.warm({
  RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW}`, RATE_LIMIT_IP: "off", REDIS_MAX_RECONNECT_ATTEMPTS: 0, ...vars,
}, options);

const get = (limiter, caller = CALLER, path = "/") => send(limiter.url, { path, headers: { "CF-Connecting-IP": caller } });

/** Counts the requests of a caller that are admitted until one is denied. `by` names the store that has to decide all of them. */
async function admitted(limiter, { by, caller = CALLER, path = "/", maxRequests = 1000 }) {
  for (let count = 0; count < maxRequests; count++) {
    const { status, headers } = await get(limiter, caller, path);
    assert.equal(headers["x-ratelimit-store"], by === "memory" ? "memory" : undefined);
    if (status === 429) return count;
    assert.equal(status, 200);
  }
  return maxRequests;
}

const take = (limiter, count, caller, path) => admitted(limiter, { by: "upstash", maxRequests: count, caller, path });

/** Sends requests until Upstash decides again, and returns that answer. `faults` replace the current ones. */
function recovered(limiter, caller = CALLER, faults = [], path = "/") {
  standIn.faults.set(...faults);
  return within((async () => {
    for (;;) {
      const answer = await get(limiter, caller, path);
      if (answer.headers["x-ratelimit-store"] === undefined && answer.status !== 503) return answer;
    }
  })(), "a decision by Upstash");
}

/** Waits until Redis counts this many units of a quota. Reconciliation runs after the response. */
function reconciled(key, units) {
  return within((async () => {
    const counted = async () => ((await redis.exists(PREFIX + key)) ? consumed(redis, key) : 0);
    while ((await counted()) < units) await new Promise(setImmediate);
  })(), `${units} units of ${key} in Redis`);
}

async function health(limiter) {
  const headers = { Authorization: `Bearer ${ADMIN_TOKEN}` };
  return (await send(limiter.url, { path: "/_limiter/health", headers })).json();
}

describe("a quota while Upstash fails", () => {
  for (const algorithm of ALGORITHMS) {
    for (const [factor, remaining] of [["1", 5], ["1.2", 11]]) {
      it(`memory admits ${remaining} more after 25 of ${LIMIT} at factor ${factor}, and Redis then counts ${LIMIT} (${algorithm})`, async () => {
        const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } }, RATE_LIMIT_FALLBACK_FACTOR: factor });
        assert.equal(await take(limiter, 25), 25);
        standIn.faults.set(DOWN);
        assert.equal(await admitted(limiter, { by: "memory" }), remaining);
        assert.equal(await consumed(redis, `general:${CALLER}`), 25);
        assert.equal((await recovered(limiter)).status, 429);
        assert.equal(await consumed(redis, `general:${CALLER}`), LIMIT);
      });
    }

    it(`Redis counts what memory admitted once, although the answer to the reconciling call is lost (${algorithm})`, async () => {
      const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } } });
      assert.equal(await take(limiter, 10), 10);
      standIn.faults.set({ ...DOWN, times: 3 }, { kind: "reset", after: true, times: 1 });
      assert.equal(await admitted(limiter, { by: "memory", maxRequests: 4 }), 4);
      // Redis decided the fourth request as well, and counted the backlog in the same call. Its answer was lost.
      assert.equal(await consumed(redis, `general:${CALLER}`), 10 + 3 + 1);
      assert.equal(await take(limiter, 1), 1);
      assert.equal(await consumed(redis, `general:${CALLER}`), 10 + 3 + 1 + 1);
      assert.equal(await take(limiter, LIMIT), LIMIT - 15);
    });

    it(`the backlog of callers that never return is reconciled once, although an answer is lost (${algorithm})`, async () => {
      const limiter = await start({ RATE_LIMIT_POLICIES: { general: { algorithm } }, REDIS_RETRY_DELAY: 1 });
      const callers = Array.from({ length: 20 }, (_, i) => `192.0.2.${100 + i}`);
      for (const caller of callers) assert.equal(await take(limiter, 2, caller), 2);
      standIn.faults.set(DOWN);
      for (const caller of callers) assert.equal(await admitted(limiter, { by: "memory", maxRequests: 3, caller }), 3);
      // A call reconciles sixteen callers. The probe is answered, and the answer to the first of these calls is lost.
      await recovered(limiter, CALLER, [NO_FAULT, { kind: "reset", after: true, times: 1 }]);
      for (const caller of callers) await reconciled(`general:${caller}`, 5);
      // The fault was used up, so the first call was lost and repeated.
      assert.deepEqual(standIn.faults.active(), []);
      for (const caller of callers) assert.equal(await consumed(redis, `general:${caller}`), 5);
    });
  }
});

describe("reconciliation", () => {
  it("a failed reconciliation is retried REDIS_RETRY_COUNT times, and a failed decision is not retried", async () => {
    for (const retries of [0, 3]) {
      const limiter = await start({ REDIS_RETRY_COUNT: retries, REDIS_RETRY_DELAY: 1 });
      // One failure leaves the breaker closed, so no probe interferes.
      standIn.faults.set({ ...DOWN, times: 1 });
      let { count } = standIn.requests();
      assert.equal(await admitted(limiter, { by: "memory", maxRequests: 1 }), 1);
      assert.equal(standIn.requests().count - count, 1);
      // The other caller's decision, the call that reconciles, and its retries.
      count = standIn.requests().count;
      standIn.faults.set(NO_FAULT, { ...DOWN, times: 1 + retries });
      assert.equal(await take(limiter, 1, "192.0.2.2"), 1);
      await within((async () => {
        while (standIn.faults.active().length > 0) await new Promise(setImmediate);
      })(), "every attempt");
      // No call follows the retries: the next one is the next decision.
      assert.equal(await take(limiter, 1, "192.0.2.3"), 1);
      assert.equal(standIn.requests().count - count, 1 + (1 + retries) + 1);
      await shared.reset();
    }
  });

  it("a later reconciliation sends the backlog if all retries failed", async () => {
    const limiter = await start({ REDIS_RETRY_COUNT: 0 }, { modules: INSIDE });
    standIn.faults.set({ ...DOWN, times: 1 });
    assert.equal(await admitted(limiter, { by: "memory", maxRequests: 1 }), 1);
    standIn.faults.set(NO_FAULT, { ...DOWN, times: 1 });
    assert.equal(await take(limiter, 1, "192.0.2.2"), 1);
    await within((async () => {
      while (standIn.faults.active().length > 0) await new Promise(setImmediate);
    })(), "the attempt");
    await advanceClock(limiter, 10_000);
    assert.equal(await take(limiter, 1, "192.0.2.3"), 1);
    await reconciled(`general:${CALLER}`, 1);
  });

  it("reconciliation fills a caller's quota to its limit and no further", async () => {
    const limiter = await start({ RATE_LIMIT_FALLBACK_FACTOR: "2" });
    assert.equal(await take(limiter, 25), 25);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory" }), 35);
    await recovered(limiter, "192.0.2.2");
    await reconciled(`general:${CALLER}`, LIMIT);
    assert.equal((await get(limiter)).status, 429);
    assert.equal(await consumed(redis, `general:${CALLER}`), LIMIT);
    // The key still expires when its last unit does.
    const ttlMs = await redis.pTTL(`${PREFIX}general:${CALLER}`);
    assert.ok(ttlMs > 0 && ttlMs <= WINDOW * 1000 * (1 + 1 / 60) + 2000 + 1000, `the key expires in ${ttlMs} ms`);
  });
});

describe("a fleet without its store", () => {
  for (const algorithm of ALGORITHMS) {
    it(`two isolates admit at most twice the factor times the limit, and Redis then counts the limit (${algorithm})`, async () => {
      const limiters = await Promise.all([1, 2].map(() => start({ RATE_LIMIT_POLICIES: { general: { algorithm } } })));
      // Only the first isolate has decided for this caller, so the second does not know what it consumed.
      assert.equal(await take(limiters[0], 20), 20);
      standIn.faults.set(DOWN);
      const fallbackLimit = LIMIT * 1.2;
      const both = await Promise.all(limiters.map((limiter) => admitted(limiter, { by: "memory" })));
      assert.deepEqual(both, [fallbackLimit - 20, fallbackLimit]);
      assert.ok(20 + both[0] + both[1] <= 2 * fallbackLimit);
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

  it("`allow` denies nobody, and Redis counts what it admits up to the limit", async () => {
    const limiter = await start(RULES);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory", path: "/open", maxRequests: 20 }), 20);
    await recovered(limiter, "192.0.2.2");
    await reconciled(`open:${CALLER}`, 2);
    assert.equal((await get(limiter, CALLER, "/open")).status, 429);
  });

  it("`allow` admits a caller that was denied before, once its remembered denial has expired", async () => {
    const limiter = await start(RULES, { modules: INSIDE });
    assert.equal(await take(limiter, 3, CALLER, "/open"), 2);
    standIn.faults.set(DOWN);
    await advanceClock(limiter, 10_000);
    assert.equal(await admitted(limiter, { by: "memory", path: "/open", maxRequests: 10 }), 10);
    assert.equal((await recovered(limiter, CALLER, [], "/open")).status, 429);
  });

  it("the strictest `on_store_failure` of a request's policies applies", async () => {
    const limiter = await start(RULES);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory", path: "/open-own" }), 4);
    assert.equal((await get(limiter, CALLER, "/open-shut")).status, 503);
    assert.equal((await get(limiter, CALLER, "/open")).status, 200);
    await recovered(limiter, "192.0.2.2");
    await reconciled(`own:${CALLER}`, 4);
    await reconciled(`open:${CALLER}`, 2);
  });

  it("`deny` answers 503 from the first failure until the breaker closes", async () => {
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
    // No request was admitted or counted meanwhile.
    assert.equal((await get(limiter, CALLER, "/shut")).headers["x-ratelimit-remaining"], "98");
  });

  it("`deny` sends a Retry-After until the breaker's next probe", async () => {
    const limiter = await start({ ...RULES, ADMIN_TOKEN, REDIS_MAX_RECONNECT_ATTEMPTS: 20 });
    // Only an operator can fix a refused token, so the breaker waits its longest at once: 15 to 29 hours.
    standIn.faults.set({ kind: "unauthorized" });
    assert.equal((await get(limiter, CALLER, "/shut")).headers["retry-after"], "1");
    const { failing } = await health(limiter);
    const seconds = Number((await get(limiter, CALLER, "/shut")).headers["retry-after"]);
    const longestS = 0.1 * 2 ** 20;
    assert.ok(seconds > longestS / 2 && seconds <= longestS + 1, `Retry-After is ${seconds} s`);
    assert.ok(Math.abs(failing.next_try - (Date.now() + seconds * 1000)) < 30_000);
  });

  it("a block that a policy with `allow` set still denies requests of any cost", async () => {
    const limiter = await start({
      RATE_LIMIT_OPEN: `2,${WINDOW},${HOUR_S}`,
      RATE_LIMIT_POLICIES: policies({ open: "allow" }),
      RATE_LIMIT_ROUTES: [{ path: "/expensive", policies: ["open"], cost: 2 }, { path: "/**", policies: ["open"] }],
    }, { modules: INSIDE });
    assert.equal(await take(limiter, 3), 2);
    standIn.faults.set(DOWN);
    for (let time = 0; time < 8; time++) {
      for (const path of ["/", "/expensive"]) {
        const answer = await get(limiter, CALLER, path);
        assert.deepEqual([answer.status, answer.json().blocked], [429, true], path);
      }
      // The remembered denial expires, the isolate asks Redis again, and Redis does not answer: the block still denies.
      await advanceClock(limiter, 10_000);
    }
    assert.equal((await get(limiter, "192.0.2.2")).status, 200);
    await advanceClock(limiter, HOUR_S * 1000);
    assert.equal((await get(limiter)).status, 200);
  });
});

describe("blocks and denials during an outage", () => {
  it("known blocks still deny while Upstash is down, and memory sets new ones", async () => {
    const limiter = await start({ RATE_LIMIT_GENERAL: `2,60,${HOUR_S}`, RATE_LIMIT_FALLBACK_FACTOR: "1" }, { modules: INSIDE });
    const [denied, blocked] = ["192.0.2.2", "192.0.2.3"];
    assert.equal(await take(limiter, 3, denied), 2);
    await redis.set(`${PREFIX}blocked:${blocked}`, "{}");
    assert.equal((await get(limiter, blocked)).status, 429);
    standIn.faults.set(DOWN);
    assert.equal(await admitted(limiter, { by: "memory" }), 2);
    // Long after the window, only blocks deny these callers.
    for (const ms of [0, 10_000, 10_000, 120_000]) {
      await advanceClock(limiter, ms);
      for (const caller of [denied, blocked, CALLER]) {
        const answer = await get(limiter, caller);
        assert.deepEqual([answer.status, answer.json().blocked], [429, true], caller);
      }
    }
    await advanceClock(limiter, HOUR_S * 1000);
    for (const caller of [denied, CALLER]) assert.equal((await get(limiter, caller)).status, 200, caller);
    assert.equal((await get(limiter, blocked)).status, 429, "a block without an end should still deny");
  });
});

describe("reports of a failing store", () => {
  it("X-RateLimit-Store is set only while memory decides, and an origin's header of that name is removed", async () => {
    const origin = await startOrigin((_, response) => response.writeHead(200, { "X-RateLimit-Store": "the origin's" }).end());
    try {
      const limiter = await start({ ORIGIN_URL: origin.url, RATE_LIMIT_GENERAL: `2,${WINDOW}`, RATE_LIMIT_FALLBACK_FACTOR: "1" });
      const store = async (caller) => (await get(limiter, caller)).headers["x-ratelimit-store"];
      assert.equal(await store(), undefined);
      standIn.faults.set(DOWN);
      assert.deepEqual([await store(), await store()], ["memory", "memory"], "a denial should have the header as well");
      await recovered(limiter, "192.0.2.2");
      assert.deepEqual([await store(), await store()], [undefined, undefined]);
    } finally {
      await origin.stop();
    }
  });

  it("X-RateLimit-Store is not set when memory is the configured store", async () => {
    const limiter = await shared.limiter({ REDIS_ENABLED: false });
    const { status, headers } = await get(limiter);
    assert.deepEqual([status, headers["x-ratelimit-store"]], [200, undefined]);
  });

  it("health reports the breaker's state, and only to an operator since when, why and when the next probe is due", async () => {
    const limiter = await start({ ADMIN_TOKEN });
    const states = async () => {
      const { status, store, breaker, failing } = await health(limiter);
      return [[status, store, breaker].join(" "), failing];
    };
    assert.deepEqual(await states(), ["ok upstash closed", undefined]);
    const from = Date.now();
    standIn.faults.set(DOWN);
    for (let failure = 1; failure <= 5; failure++) {
      assert.deepEqual(await states(), ["ok upstash closed", undefined], "single failures should leave the breaker closed");
      assert.equal((await get(limiter)).status, 200);
    }
    const [open, failing] = await states();
    assert.equal(open, "degraded memory open");
    const { since, why, next_try: next, ...rest } = failing;
    assert.deepEqual(rest, {});
    assert.ok(since >= from && since <= Date.now(), `${since}`);
    assert.equal(why, "Redis refused the command: OOM");
    // The wait is 100 ms, less a random part of up to half.
    assert.ok(next >= since + 50 && next <= since + 100, `the next probe is due after ${next - since} ms`);
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

  it("a failed probe opens the breaker again with the same `since`, and a successful one closes it", async () => {
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
    })(), "the outcome of the probe");
    assert.deepEqual([breaker, second.since], ["open", first.since]);
    assert.match(second.why, /the token or password was refused/);
    assert.ok(second.next_try > first.next_try);
    await recovered(limiter, "192.0.2.2");
    const { version: _, ...healthy } = await health(limiter);
    assert.deepEqual(healthy, { status: "ok", store: "upstash", breaker: "closed", script: "flagged", errors: [], warnings: [] });
  });
});

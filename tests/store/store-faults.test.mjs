/**
 * Upstash fails in every way that the stand-in can play, and in some that this file adds. The limiter classifies each failure, logs it
 * without secrets, and asks Upstash again once it works. reliability.test.mjs tests what callers see under load.
 */

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, afterEach, before, describe, it } from "node:test";
import { PLANTED_SECRETS } from "../harness/fixtures.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";

const LIMIT = 3;
const TOKEN = PLANTED_SECRETS.UPSTASH_REDIS_REST_TOKEN;
const PREFIX = "planted-prefix:";
const CALLER = "198.18.7.9";
const OTHER = "198.18.7.1";

/** Consecutive failures that open the breaker. */
const FAILURES_TO_OPEN = 5;

/** The script answers with `numbers` for its one quota. */
const quotaAnswer = (...numbers) => ({ kind: "result", value: [null, null, [...numbers, ""]] });
/** Upstash answers with this body. */
const bodyAnswer = (body, status = 200) => ({ kind: "status", status, body });

const UNREACHABLE = "Redis cannot be reached";
const MALFORMED = "the answer has an unexpected form";
const UNAUTHORIZED = "the token or password was refused";
const NOT_PERMITTED = "the Redis user lacks a permission";
const OVER_QUOTA = "the plan's command quota is used up";

/** What fails, the fault, and the reason that is logged. `permanent`: one such answer opens the breaker. */
const FAULTS = [
  ["connections are reset", { kind: "reset" }, UNREACHABLE],
  ["connections are reset after Redis has decided", { kind: "reset", after: true }, UNREACHABLE],
  ["connections break in the middle of the body", { kind: "truncated" }, UNREACHABLE],
  ["answers contain half of the JSON", { kind: "cut" }, MALFORMED],
  ["Upstash answers 500 with JSON", { kind: "status" }, "Redis answered with HTTP status 500"],
  ["Upstash answers 500 with HTML", { kind: "html", status: 500 }, "Redis answered with HTTP status 500"],
  ["Upstash answers 502 without a body", { kind: "empty", status: 502 }, "Redis answered with HTTP status 502"],
  ["Upstash answers 503 with Retry-After", { kind: "status", status: 503, retryAfter: 3600 }, "Redis answered with HTTP status 503"],
  ["Upstash answers 204", { kind: "empty", status: 204 }, "Redis answered with HTTP status 204"],
  ["Upstash answers 404", { kind: "html", status: 404 }, "Redis answered with HTTP status 404"],
  ["Upstash answers 429", { kind: "status", status: 429, retryAfter: 3600 }, "HTTP 429: too many requests a second"],
  ["Upstash answers 400 with HTML", { kind: "html", status: 400 }, MALFORMED],
  ["Upstash answers 400 without an error", bodyAnswer("{}", 400), "Redis answered with HTTP status 400"],
  ["Upstash answers 200 with HTML", { kind: "html" }, MALFORMED],
  ["Upstash answers 200 without a body", { kind: "empty" }, MALFORMED],
  ["the token is refused", { kind: "unauthorized" }, UNAUTHORIZED, { permanent: true }],
  ["Upstash refuses the token with 403", { kind: "html", status: 403 }, UNAUTHORIZED, { permanent: true }],
  ["the token may not run scripts", bodyAnswer(`{"error":"NOPERM this user has no permissions to run the 'evalsha' command"}`, 400), NOT_PERMITTED, { permanent: true }],
  ["the database has no scripts", bodyAnswer(`{"error":"ERR unknown command 'EVALSHA', with args beginning with: '0' "}`, 400), "Redis lacks a command"],
  ["the plan is used up", { kind: "quota" }, OVER_QUOTA, { permanent: true }],
  ["the plan is used up and Upstash answers 402", bodyAnswer('{"error":"ERR max requests limit exceeded. Limit: 1"}', 402), OVER_QUOTA, { permanent: true }],
  ["Redis is out of memory", bodyAnswer('{"error":"OOM command not allowed when used memory > \'maxmemory\'."}', 400), "Redis refused the command: OOM"],
  [
    "Redis quotes the command in its error",
    bodyAnswer(`{"error":"ERR wrong: ${PREFIX}general:${CALLER} ${TOKEN}"}`, 400),
    "Redis refused the command: ERR",
  ],
  [
    "an error begins with a key and the token",
    bodyAnswer(`{"error":"${PREFIX}general:${CALLER} ${TOKEN}"}`, 400),
    "Redis refused the command: ERR",
  ],
  ["the error is not a string", bodyAnswer('{"error":{"message":"x"}}', 400), MALFORMED],
  ["the answer is another JSON object", bodyAnswer('{"message":"welcome"}'), MALFORMED],
  ["the answer is a JSON list", bodyAnswer("[]"), MALFORMED],
  ["the answer is a JSON null", bodyAnswer("null"), MALFORMED],
  ["the result is null", { kind: "result", value: null }, MALFORMED],
  ["the result is an object", { kind: "result", value: { a: 1 } }, MALFORMED],
  ["the result is a string", { kind: "result", value: "garbage" }, MALFORMED],
  ["the result is a number", { kind: "result", value: 1 }, MALFORMED],
  ["the result is an empty list", { kind: "result", value: [] }, MALFORMED],
  ["the result lacks a quota's answer", { kind: "result", value: [null, null] }, MALFORMED],
  ["the result has one quota's answer too many", { kind: "result", value: [null, null, [1, 2, 0, 1, 1, 0, 0, ""], [1, 2, 0, 1, 1, 0, 0, ""]] }, MALFORMED],
  ["a quota's answer is not a list", { kind: "result", value: [null, null, 1] }, MALFORMED],
  ["a quota's answer is too short", quotaAnswer(1, 2, 0, 1, 1, 0), MALFORMED],
  ["a quota's answer is too long", quotaAnswer(1, 2, 0, 1, 1, 0, 0, 0), MALFORMED],
  ["a quota's answer lacks its state", { kind: "result", value: [null, null, [1, 2, 0, 1, 1, 0, 0]] }, MALFORMED],
  ["a quota's state is not a string", { kind: "result", value: [null, null, [1, 2, 0, 1, 1, 0, 0, 0]] }, MALFORMED],
  ["a quota's answer has a negative number", quotaAnswer(1, -1, 0, 1, 1, 0, 0), MALFORMED],
  ["a quota's answer has a fraction", quotaAnswer(1, 1.5, 0, 1, 1, 0, 0), MALFORMED],
  ["a quota's answer has a number above the largest limit", quotaAnswer(1, 2 ** 32, 0, 1, 1, 0, 0), MALFORMED],
  ["a quota's answer has a number that Rust cannot represent", bodyAnswer('{"result":[null,null,[1,1e400,0,1,1,0,0,""]]}'), MALFORMED],
  ["a quota's answer has strings for numbers", quotaAnswer("1", "2", "0", "1", "1", "0", "0"), MALFORMED],
  ["a quota's answer has an unknown outcome", quotaAnswer(3, 2, 0, 1, 1, 0, 0), MALFORMED],
  ["a quota's answer is a denial that has already ended", quotaAnswer(0, 0, 1, 1, 1, 0, 0), MALFORMED],
  ["the block record is not a string", { kind: "result", value: [null, 7, [1, 2, 0, 1, 1, 0, 0, ""]] }, MALFORMED],
  ["the version is not a string", { kind: "result", value: [7, null, [1, 2, 0, 1, 1, 0, 0, ""]] }, MALFORMED],
];

/** A failure that proves that the decision has not run. */
const REFUSED = bodyAnswer('{"error":"OOM command not allowed when used memory > \'maxmemory\'."}', 400);

/** Starts a limiter on a store. `vars` override the defaults. */
function limiterOn(store, vars = {}) {
  return startWorkerd({
    vars: {
      UPSTASH_REDIS_REST_URL: store.url,
      UPSTASH_REDIS_REST_TOKEN: TOKEN,
      REDIS_KEY_PREFIX: PREFIX,
      // Only tests of time-outs lower this: a busy machine must not cause any.
      REDIS_TIMEOUT: 30_000,
      REDIS_MAX_RECONNECT_ATTEMPTS: 1,
      RATE_LIMIT_FALLBACK_FACTOR: 1,
      RATE_LIMIT_GENERAL: `${LIMIT},3600`,
      RATE_LIMIT_IP: "off",
      ...vars,
    },
  });
}

let limiter;
const ask = (caller = CALLER) => send(limiter.url, { headers: { "CF-Connecting-IP": caller } });
/** Sends two requests more than the limit and returns the statuses. */
const statuses = async (caller) => {
  const seen = [];
  for (let request = 0; request < LIMIT + 2; request++) seen.push((await ask(caller)).status);
  return seen;
};
const LIMITED = [200, 200, 200, 429, 429];

async function healthSummary() {
  const { status, store, breaker } = (await send(limiter.url, { path: "/_limiter/health" })).json();
  return `${status}, ${store}, ${breaker}`;
}
const HEALTHY = "ok, upstash, closed";
const BREAKER_OPEN = "degraded, memory, open";

/** Returns an expression that matches this text literally. */
const literal = (text) => new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));

/**
 * Counts the log lines that report that the breaker opened for this reason, that it probed, and that it closed. Any other line fails
 * the test.
 */
function breakerLines(reason) {
  const kinds = [
    new RegExp(`Redis failed: ${literal(reason).source}.*; it is not called for \\d+ ms, and each policy's on_store_failure decides until then$`),
    /Redis: a probe checks whether it answers again$/,
    /Redis answers again, and limits are shared again$/,
  ];
  const lines = limiter.logs().split("\n").filter(Boolean);
  for (const line of lines) assert.ok(kinds.some((kind) => kind.test(line)), `unexpected log line: ${line}`);
  return kinds.map((kind) => lines.filter((line) => kind.test(line)).length);
}

function assertNothingSecret(...texts) {
  for (const text of texts) {
    for (const secret of [TOKEN, PREFIX, CALLER, "EVAL"]) assert.ok(!text.includes(secret), `${secret} must not appear in: ${text}`);
  }
}

/** Sends requests until the breaker has closed. */
const recovery = () => within((async () => {
  while ((await healthSummary()) !== HEALTHY) await ask(OTHER);
  await limiter.logged(/Redis answers again/);
})(), "recovery");

/**
 * Counts decisions and probes among the last `count` requests. A call that reconciles takes no units, and a probe has one key. Requests
 * of `OTHER` do not count: one of them may be the first that Upstash decides again.
 */
function sent({ last }, count) {
  const own = last.slice(-count).filter(({ commands: [args] }) => !args.some((arg) => arg.endsWith(`:${OTHER}`)));
  const calls = own.map(({ commands: [[, , keys, ...rest]] }) => ({ keys, cost: rest[Number(keys) + 1] }));
  return {
    decisions: calls.filter(({ cost }) => cost !== "0").length,
    probes: calls.filter(({ keys, cost }) => keys === "1" && cost === "0").length,
  };
}

describe("an Upstash that fails", () => {
  let standIn;

  /** Returns a caller that memory admitted without a call to the store, as it does while the breaker is open. */
  async function admittedByMemoryAlone() {
    for (let number = 0; ; number++) {
      const caller = `198.18.6.${number}`;
      const { count } = standIn.requests();
      assert.equal((await ask(caller)).status, 200);
      // Otherwise the request began a probe, and Redis may have counted it.
      if (standIn.requests().count === count) return caller;
    }
  }

  before(async () => {
    standIn = await startStandIn({ token: TOKEN });
  });
  after(() => standIn?.stop());
  afterEach(async () => {
    await limiter?.stop();
    await standIn.reset();
  });

  for (const [what, fault, reason, { permanent = false } = {}] of FAULTS) {
    it(`memory decides while ${what}, and Upstash decides after it recovers`, async () => {
      limiter = await limiterOn(standIn);
      assert.equal((await ask(OTHER)).status, 200); // loads the script
      assert.equal(await healthSummary(), HEALTHY);
      assert.equal(limiter.logs(), "");

      standIn.faults.set(fault);
      const { count } = standIn.requests();
      assert.deepEqual(await statuses(), LIMITED);
      await limiter.logged(literal(`Redis failed: ${reason}`));
      assert.match(await healthSummary(), /^degraded, memory, (open|half-open)$/);
      for (let request = 0; request < 3; request++) assert.equal((await ask()).headers["x-ratelimit-store"], "memory");
      const caller = await admittedByMemoryAlone();

      standIn.faults.clear();
      await recovery();
      const all = standIn.requests();
      // Reconciliation has counted in Redis what memory admitted.
      const { status, headers } = await ask(caller);
      assert.deepEqual([status, headers["x-ratelimit-remaining"], headers["x-ratelimit-store"]], [200, String(LIMIT - 2), undefined]);

      await limiter.stop(); // after this, everything that it logged has been read
      const [opened, probed, closed] = breakerLines(reason);
      assert.deepEqual([opened, closed], [probed, 1]);
      // Each decision is sent once until the breaker opens. Then one probe follows each wait.
      assert.deepEqual(sent(all, all.count - count), { decisions: permanent ? 1 : FAILURES_TO_OPEN, probes: probed });
      assertNothingSecret(limiter.logs());
    });
  }

  it("a decision whose answer is lost is counted once", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: "50,3600" });
    await ask(OTHER);
    standIn.faults.set({ kind: "reset", after: true });
    const { count } = standIn.requests();
    for (let request = 0; request < 20; request++) assert.equal((await ask()).status, 200);
    const all = standIn.requests();
    const lost = all.count - count;
    assert.ok(lost >= FAILURES_TO_OPEN, `${lost} answers were lost`);
    standIn.faults.clear();
    await recovery();
    assert.equal((await ask()).headers["x-ratelimit-remaining"], String(50 - 20 - 1));
  });

  it("memory decides only the request whose call fails, and continues from the store's last state", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: "50,3600" });
    await ask(OTHER);
    const seen = [];
    for (let request = 0; request < 6; request++) {
      if (request % 2 === 1) standIn.faults.set({ ...REFUSED, times: 1 });
      const { headers } = await ask();
      seen.push(`${headers["x-ratelimit-remaining"]} ${headers["x-ratelimit-store"] ?? "upstash"}`);
    }
    assert.deepEqual(seen, ["49 upstash", "48 memory", "47 upstash", "46 memory", "45 upstash", "44 memory"]);
    assert.equal(limiter.logs(), "", "single failures should not be logged");
  });

  it("ten failures among twenty calls open the breaker, even if no five are consecutive", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: "50,3600" });
    await ask(OTHER);
    for (let failures = 1; failures <= 10; failures++) {
      assert.equal(limiter.logs(), "");
      standIn.faults.set({ kind: "status", times: 1 });
      await ask();
      if (failures < 10) await ask();
    }
    await limiter.logged(/Redis failed: Redis answered with HTTP status 500; it is not called/);
    assert.equal(await healthSummary(), BREAKER_OPEN);
  });

  it("Redis counts what memory admitted to callers that never return", async () => {
    limiter = await limiterOn(standIn);
    await ask(OTHER);
    standIn.faults.set(REFUSED);
    const callers = Array.from({ length: 40 }, (_, i) => `198.18.9.${i}`);
    for (const caller of callers) for (let request = 0; request < 2; request++) assert.equal((await ask(caller)).status, 200);
    standIn.faults.clear();
    await recovery();
    const redis = await standIn.redis.client();
    const consumed = async (caller) => (await redis.get(`${PREFIX}general:${caller}`))?.split("=")[1];
    await within((async () => {
      while (!(await Promise.all(callers.map(consumed))).every((units) => units === "2")) await ask(OTHER);
    })(), "every unit to be counted in Redis", 30_000);
  });

  it("a denial by memory sets the policy's block", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: `${LIMIT},3600,7200` });
    standIn.faults.set({ kind: "status" });
    assert.deepEqual(await statuses(), LIMITED);
    const { blocked, retryAfter } = (await ask()).json();
    assert.equal(blocked, true);
    assert.ok(retryAfter > 7100 && retryAfter <= 7200, String(retryAfter));
  });

  for (const rule of ["memory", "allow", "deny"]) {
    it(`a remembered denial still denies without a call to a failing Upstash under on_store_failure \`${rule}\``, async () => {
      limiter = await limiterOn(standIn, { RATE_LIMIT_POLICIES: { general: { on_store_failure: rule } } });
      assert.deepEqual(await statuses(), LIMITED);
      standIn.faults.set({ kind: "status" });
      const { count } = standIn.requests();
      assert.equal((await ask()).status, 429);
      assert.equal(standIn.requests().count, count);
      assert.equal(await healthSummary(), HEALTHY);
      assert.equal((await ask(OTHER)).status, rule === "deny" ? 503 : 200);
    });
  }

  it("memory holds each of a hundred concurrent callers to its limit", async () => {
    limiter = await limiterOn(standIn);
    standIn.faults.set({ kind: "status" });
    const callers = Array.from({ length: 100 }, (_, i) => `198.18.8.${i}`);
    const seen = await Promise.all(callers.flatMap((caller) => [1, 2, 3, 4, 5].map(() => ask(caller))));
    assert.equal(seen.filter(({ status }) => status === 200).length, 100 * LIMIT);
    assert.equal(seen.filter(({ status }) => status === 429).length, 100 * 2);
    await limiter.logged(/Redis failed: Redis answered with HTTP status 500/);
  });

  it("EVAL decides while Upstash never keeps the script: two requests a decision, and health stays ok", async () => {
    limiter = await limiterOn(standIn);
    standIn.faults.set({ kind: "noscript" });
    assert.deepEqual(await statuses(), LIMITED);
    // The fifth request was a remembered denial.
    const sent = standIn.requests().last.map(({ commands }) => commands[0][0]);
    assert.deepEqual(sent, ["EVALSHA", "EVAL", "EVALSHA", "EVAL", "EVALSHA", "EVAL", "EVALSHA", "EVAL"]);
    assert.equal(await healthSummary(), HEALTHY);
    assert.equal(limiter.logs(), "");
  });

  it("memory decides after two requests when Upstash answers NOSCRIPT to EVAL as well", async () => {
    limiter = await limiterOn(standIn);
    standIn.faults.set(bodyAnswer('{"error":"NOSCRIPT No matching script. Please use EVAL."}', 400));
    assert.deepEqual(await statuses(), LIMITED);
    assert.equal(standIn.requests().count, 2 * LIMITED.length);
    assert.equal(await healthSummary(), BREAKER_OPEN);
    await limiter.logged(/Redis failed: Redis refused the command: NOSCRIPT/);
  });

  it("one decision loads the script again after Redis has lost it, and nothing counts as a failure", async () => {
    limiter = await limiterOn(standIn);
    await ask(OTHER);
    await (await standIn.redis.client()).scriptFlush();
    const { count } = standIn.requests();
    assert.deepEqual(await statuses(), LIMITED);
    // Two for the first decision, one for each other, and none for the last, which is a remembered denial.
    assert.equal(standIn.requests().count - count, 2 + 3);
    assert.equal(limiter.logs(), "");
  });

  it("absurd answers of the right shape never cause an error", async () => {
    const MAX_U64 = "18446744073709551615";
    const VALID_NUMBERS = [1, 2, 0, 1, 1, 0, 0];
    for (const [numbers, state] of [
      [[0, 0, MAX_U64, MAX_U64, MAX_U64, MAX_U64, 0], ""],
      [[1, 4294967295, MAX_U64, MAX_U64, MAX_U64, 0, 0], ""],
      [[2, 4294967295, MAX_U64, MAX_U64, MAX_U64, MAX_U64, 0], ""],
      [[0, 0, "9007199254740993", 0, 0, 0, 0], ""],
      [[1, 0, 0, 0, 0, 0, 0], ""],
      [VALID_NUMBERS, "garbage"],
      [VALID_NUMBERS, "sw:60000:4503599627370496:75059993789:0=4294967295"],
      [VALID_NUMBERS, "sw:0:1:1:0=1"],
      [VALID_NUMBERS, "tb:3600000:4503599627370496:4503599627370496:1"],
      [VALID_NUMBERS, "fw:3600000:4503599627370496:4294967295"],
    ]) {
      for (const dialect of ["x-ratelimit", "ietf"]) {
        limiter = await limiterOn(standIn, { RATE_LIMIT_HEADERS: dialect });
        const answers = async () => {
          for (let request = 0; request < 2; request++) {
            const { status } = await ask();
            assert.ok([200, 429].includes(status), `status ${status} after the answer ${numbers} ${state}`);
          }
        };
        standIn.faults.set(bodyAnswer(`{"result":[null,null,[${numbers},${JSON.stringify(state)}]]}`));
        await answers();
        // Now memory decides from the state that it was given.
        standIn.faults.set({ kind: "status", times: 2 });
        await answers();
        standIn.faults.clear();
        assert.equal((await ask(OTHER)).status, 200);
        await limiter.stop();
        await standIn.reset();
      }
    }
  });
});

describe("an Upstash that does not answer in time", () => {
  const TIMEOUT_MS = 200;
  let store;
  afterEach(async () => {
    await limiter?.stop();
    await store?.stop();
  });

  /**
   * Starts a store that begins each answer with `begin` and never ends it. Returns a function that waits until the limiter has
   * abandoned this many calls.
   */
  async function startStalling(begin) {
    const closed = [];
    store = await startOrigin((_, response) => {
      closed.push(once(response, "close"));
      begin(response);
    });
    return (count) => {
      assert.equal(closed.length, count, "each decision should be sent once");
      return within(Promise.all(closed), "the limiter to abandon every call");
    };
  }

  for (const [what, begin] of [
    ["nothing", () => {}],
    ["headers and no body", (response) => response.writeHead(200, { "Content-Type": "application/json" }).flushHeaders()],
    ["half an answer", (response) => response.writeHead(200, { "Content-Type": "application/json" }).write('{"result":[null,nu')],
    ["one byte at a time", (response) => {
      response.writeHead(200, { "Content-Type": "application/json" });
      const timer = setInterval(() => response.write(" "), 20);
      response.on("close", () => clearInterval(timer));
    }],
    ["the headers of an error", (response) => response.writeHead(500).flushHeaders()],
  ]) {
    it(`REDIS_TIMEOUT ends a call that is answered with ${what}, and memory decides`, async () => {
      const aborted = await startStalling(begin);
      limiter = await limiterOn(store, { REDIS_TIMEOUT: TIMEOUT_MS });
      const started = performance.now();
      assert.deepEqual(await within(statuses(), "the answers"), LIMITED);
      const took = performance.now() - started;
      // The limiter waits for REDIS_TIMEOUT each time, and then abandons the call.
      assert.ok(took >= LIMITED.length * TIMEOUT_MS * 0.9, `the requests took only ${took} ms`);
      await aborted(LIMITED.length);
      assert.equal(await healthSummary(), BREAKER_OPEN);
      await limiter.logged(/Redis failed: no answer within REDIS_TIMEOUT/);
      assert.deepEqual(breakerLines("no answer within REDIS_TIMEOUT"), [1, 0, 0]);
      assertNothingSecret(limiter.logs());
    });
  }

  it("concurrent requests wait for REDIS_TIMEOUT in parallel", async () => {
    const aborted = await startStalling(() => {});
    limiter = await limiterOn(store, { REDIS_TIMEOUT: 1000 });
    const answers = Promise.all(Array.from({ length: 50 }, () => ask()));
    // One after another they would take 50 s.
    const seen = await within(answers, "fifty answers");
    assert.equal(seen.filter(({ status }) => status === 200).length, LIMIT);
    assert.equal(seen.filter(({ status }) => status === 429).length, 50 - LIMIT);
    await aborted(50);
    await limiter.logged(/Redis failed: no answer within REDIS_TIMEOUT/);
    // The last of the requests may have begun a probe, so probes are not compared.
    const [opened, , closed] = breakerLines("no answer within REDIS_TIMEOUT");
    assert.deepEqual([opened, closed], [1, 0], "the breaker should open once and stay open");
  });

  it("EVALSHA and the EVAL after it share one REDIS_TIMEOUT", async () => {
    const closed = [];
    store = await startOrigin(async (_, response, received) => {
      const [verb] = JSON.parse(await received.body);
      if (verb !== "EVALSHA") return closed.push(once(response, "close"));
      setTimeout(() => response.writeHead(400).end('{"error":"NOSCRIPT No matching script."}'), 1500);
    });
    limiter = await limiterOn(store, { REDIS_TIMEOUT: 2000 });
    const started = performance.now();
    assert.equal((await ask()).status, 200);
    const took = performance.now() - started;
    assert.equal(closed.length, 1);
    await within(closed[0], "the limiter to abandon EVAL");
    assert.ok(took >= 1900 && took < 1500 + 2000 - 200, `the request took ${took} ms`);
  });
});

describe("an Upstash that does not exist", () => {
  afterEach(() => limiter?.stop());

  it("memory decides when the host name does not resolve", async () => {
    limiter = await limiterOn({ url: "http://no-such-host.invalid" });
    assert.deepEqual(await statuses(), LIMITED);
    assert.match(await healthSummary(), /^degraded, memory/);
    await limiter.logged(/Redis failed: Redis cannot be reached/);
    assertNothingSecret(limiter.logs());
  });
});

describe("an Upstash that redirects", () => {
  let store, elsewhere;
  afterEach(async () => {
    await limiter?.stop();
    await store?.stop();
    await elsewhere?.stop();
  });

  for (const status of [301, 302, 303, 307, 308]) {
    it(`the limiter does not follow a redirect (${status}), so neither token nor decision goes to another host`, async () => {
      elsewhere = await startOrigin((_, response) => response.end('{"result":null}'));
      store = await startOrigin((_, response) => response.writeHead(status, { Location: `${elsewhere.url}/elsewhere` }).end());
      limiter = await limiterOn(store);
      assert.deepEqual(await statuses(), LIMITED);
      assert.equal(store.requests.length, LIMITED.length);
      assert.deepEqual(elsewhere.requests.map(({ method, rawHeaders }) => [method, ...rawHeaders].join(" ")), []);
    });
  }
});

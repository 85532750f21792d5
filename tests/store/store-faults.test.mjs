/**
 * Upstash fails, in every way that the stand-in knows and some of its own: each failure is taken for what it is, logged
 * without a word too many, and over when it is over. What callers see of it under load is in reliability.test.mjs.
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

/** Failures in a row that open the breaker. */
const IN_A_ROW = 5;

/** An answer of the script's whose quota part is `numbers`. */
const answering = (...numbers) => ({ kind: "result", value: [null, null, [...numbers, ""]] });
/** An answer of that text, with status 200 unless said. */
const saying = (body, status = 200) => ({ kind: "status", status, body });

const UNREACHABLE = "cannot be reached";
const MALFORMED = "an answer that is not what the command answers";
const UNAUTHORIZED = "the token or password was refused";
const NOT_PERMITTED = "the Redis user lacks a permission";
const OVER_QUOTA = "the plan's command quota is used up";

/** What fails, the fault, the reason that is logged; `hopeless`: one such answer opens the breaker. */
const FAULTS = [
  ["connections are reset", { kind: "reset" }, UNREACHABLE],
  ["connections are reset once Redis has decided", { kind: "reset", after: true }, UNREACHABLE],
  ["connections break in the body", { kind: "truncated" }, UNREACHABLE],
  ["answers hold half the JSON", { kind: "cut" }, MALFORMED],
  ["status 500, JSON", { kind: "status" }, "HTTP status 500"],
  ["status 500, HTML", { kind: "html", status: 500 }, "HTTP status 500"],
  ["status 502, empty", { kind: "empty", status: 502 }, "HTTP status 502"],
  ["status 503 with Retry-After", { kind: "status", status: 503, retryAfter: 3600 }, "HTTP status 503"],
  ["status 204", { kind: "empty", status: 204 }, "HTTP status 204"],
  ["status 404", { kind: "html", status: 404 }, "HTTP status 404"],
  ["status 429", { kind: "status", status: 429, retryAfter: 3600 }, "HTTP 429: too many requests a second"],
  ["status 400, no JSON", { kind: "html", status: 400 }, MALFORMED],
  ["status 400 without an error", saying("{}", 400), "HTTP status 400"],
  ["status 200, HTML", { kind: "html" }, MALFORMED],
  ["status 200, empty", { kind: "empty" }, MALFORMED],
  ["the token is refused", { kind: "unauthorized" }, UNAUTHORIZED, { hopeless: true }],
  ["the token is refused with 403", { kind: "html", status: 403 }, UNAUTHORIZED, { hopeless: true }],
  ["the token may not run scripts", saying(`{"error":"NOPERM this user has no permissions to run the 'evalsha' command"}`, 400), NOT_PERMITTED, { hopeless: true }],
  ["the database has no scripts", saying(`{"error":"ERR unknown command 'EVALSHA', with args beginning with: '0' "}`, 400), "Redis lacks a command"],
  ["the plan is used up", { kind: "quota" }, OVER_QUOTA, { hopeless: true }],
  ["the plan is used up, with a status of its own", saying('{"error":"ERR max requests limit exceeded. Limit: 1"}', 402), OVER_QUOTA, { hopeless: true }],
  ["Redis is out of memory", saying('{"error":"OOM command not allowed when used memory > \'maxmemory\'."}', 400), "Redis refused the command: OOM"],
  [
    "Redis quotes the command in its error",
    saying(`{"error":"ERR wrong: ${PREFIX}general:${CALLER} ${TOKEN}"}`, 400),
    "Redis refused the command: ERR",
  ],
  [
    "an error begins with what it should not tell",
    saying(`{"error":"${PREFIX}general:${CALLER} ${TOKEN}"}`, 400),
    "Redis refused the command: ERR",
  ],
  ["the error is no text", saying('{"error":{"message":"x"}}', 400), MALFORMED],
  ["the answer is another JSON object", saying('{"message":"welcome"}'), MALFORMED],
  ["the answer is a JSON list", saying("[]"), MALFORMED],
  ["the answer is a JSON null", saying("null"), MALFORMED],
  ["result null", { kind: "result", value: null }, MALFORMED],
  ["result an object", { kind: "result", value: { a: 1 } }, MALFORMED],
  ["result text", { kind: "result", value: "garbage" }, MALFORMED],
  ["result a number", { kind: "result", value: 1 }, MALFORMED],
  ["result an empty list", { kind: "result", value: [] }, MALFORMED],
  ["result without a quota's answer", { kind: "result", value: [null, null] }, MALFORMED],
  ["result with a quota's answer too many", { kind: "result", value: [null, null, [1, 2, 0, 1, 1, 0, 0, ""], [1, 2, 0, 1, 1, 0, 0, ""]] }, MALFORMED],
  ["a quota's answer is no list", { kind: "result", value: [null, null, 1] }, MALFORMED],
  ["a quota's answer is short", answering(1, 2, 0, 1, 1, 0), MALFORMED],
  ["a quota's answer is long", answering(1, 2, 0, 1, 1, 0, 0, 0), MALFORMED],
  ["a quota's answer is without a state", { kind: "result", value: [null, null, [1, 2, 0, 1, 1, 0, 0]] }, MALFORMED],
  ["a state that is no text", { kind: "result", value: [null, null, [1, 2, 0, 1, 1, 0, 0, 0]] }, MALFORMED],
  ["a negative number", answering(1, -1, 0, 1, 1, 0, 0), MALFORMED],
  ["a fraction", answering(1, 1.5, 0, 1, 1, 0, 0), MALFORMED],
  ["a number beyond any limit", answering(1, 2 ** 32, 0, 1, 1, 0, 0), MALFORMED],
  ["a number that is none to Rust", saying('{"result":[null,null,[1,1e400,0,1,1,0,0,""]]}'), MALFORMED],
  ["numbers as text", answering("1", "2", "0", "1", "1", "0", "0"), MALFORMED],
  ["an outcome that there is not", answering(3, 2, 0, 1, 1, 0, 0), MALFORMED],
  ["a denial that is over", answering(0, 0, 1, 1, 1, 0, 0), MALFORMED],
  ["a block record that is no text", { kind: "result", value: [null, 7, [1, 2, 0, 1, 1, 0, 0, ""]] }, MALFORMED],
  ["a version that is no text", { kind: "result", value: [7, null, [1, 2, 0, 1, 1, 0, 0, ""]] }, MALFORMED],
];

/** A failure that says that the decision has not run. */
const REFUSING = saying('{"error":"OOM command not allowed when used memory > \'maxmemory\'."}', 400);

/** `vars` win. */
function limiterOn(store, vars = {}) {
  return startWorkerd({
    vars: {
      UPSTASH_REDIS_REST_URL: store.url,
      UPSTASH_REDIS_REST_TOKEN: TOKEN,
      REDIS_KEY_PREFIX: PREFIX,
      // Only tests of time-outs mean to have any, however busy the machine.
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
/** Asks until the limit has been exceeded twice. */
const statuses = async (caller) => {
  const seen = [];
  for (let request = 0; request < LIMIT + 2; request++) seen.push((await ask(caller)).status);
  return seen;
};
const LIMITED = [200, 200, 200, 429, 429];

async function health() {
  const { status, store, breaker } = (await send(limiter.url, { path: "/_limiter/health" })).json();
  return `${status}, ${store}, ${breaker}`;
}
const SOUND = "ok, upstash, closed";
const OPEN = "degraded, memory, open";

const exactly = (text) => new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));

/** What the log may hold, and how often it does: opened for that reason, asked, closed. */
function logged(reason) {
  const kinds = [
    new RegExp(`Redis: ${exactly(reason).source}.*; not asked for \\d+ ms, on_store_failure rules meanwhile$`),
    /Redis: asking whether it answers again$/,
    /Redis answers again; limits are shared again$/,
  ];
  const lines = limiter.logs().split("\n").filter(Boolean);
  for (const line of lines) assert.ok(kinds.some((kind) => kind.test(line)), line);
  return kinds.map((kind) => lines.filter((line) => kind.test(line)).length);
}

function assertDiscreet(...texts) {
  for (const text of texts) {
    for (const told of [TOKEN, PREFIX, CALLER, "EVAL"]) assert.ok(!text.includes(told), `${told} in: ${text}`);
  }
}

/** Waits until the breaker is closed, with somebody asking. */
const recovery = () => within((async () => {
  while ((await health()) !== SOUND) await ask(OTHER);
  await limiter.logged(/Redis answers again/);
})(), "recovery");

/**
 * The caller's decisions and the probes among the last `count` requests: a call that reconciles takes nothing, a probe has one
 * key, and another caller may be the first whom Upstash decides again.
 */
function sent({ last }, count) {
  const own = last.slice(-count).filter(({ commands: [args] }) => !args.some((arg) => arg.endsWith(`:${OTHER}`)));
  const calls = own.map(({ commands: [[, , keys, ...rest]] }) => ({ keys, cost: rest[Number(keys) + 1] }));
  return {
    decisions: calls.filter(({ cost }) => cost !== "0").length,
    probes: calls.filter(({ keys, cost }) => keys === "1" && cost === "0").length,
  };
}

describe("a store that fails", () => {
  let standIn;

  /** A caller that memory admitted without the store being asked, as it is while the breaker is open. */
  async function admittedUnasked() {
    for (let number = 0; ; number++) {
      const caller = `198.18.6.${number}`;
      const { count } = standIn.requests();
      assert.equal((await ask(caller)).status, 200);
      // Else it was a probe, of which nobody can say what became of it.
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

  for (const [what, fault, reason, { hopeless = false } = {}] of FAULTS) {
    it(`${what}: memory decides, and Upstash again when it answers`, async () => {
      limiter = await limiterOn(standIn);
      assert.equal((await ask(OTHER)).status, 200); // the script is loaded
      assert.equal(await health(), SOUND);
      assert.equal(limiter.logs(), "");

      standIn.faults.set(fault);
      const { count } = standIn.requests();
      assert.deepEqual(await statuses(), LIMITED);
      await limiter.logged(exactly(`Redis: ${reason}`));
      assert.match(await health(), /^degraded, memory, (open|half-open)$/);
      for (let request = 0; request < 3; request++) assert.equal((await ask()).headers["x-ratelimit-store"], "memory");
      const late = await admittedUnasked();

      standIn.faults.clear();
      await recovery();
      const all = standIn.requests();
      // Redis has been told what memory admitted while it was not asked.
      const { status, headers } = await ask(late);
      assert.deepEqual([status, headers["x-ratelimit-remaining"], headers["x-ratelimit-store"]], [200, String(LIMIT - 2), undefined]);

      await limiter.stop(); // and all that it logged has been read
      const [opened, asked, closed] = logged(reason);
      assert.deepEqual([opened, closed], [asked, 1]);
      // Each decision once, as many as open the breaker; then one probe after each wait.
      assert.deepEqual(sent(all, all.count - count), { decisions: hopeless ? 1 : IN_A_ROW, probes: asked });
      assertDiscreet(limiter.logs());
    });
  }

  it("a decision whose answer is lost is counted once, by Redis or with what memory admitted", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: "50,3600" });
    await ask(OTHER);
    standIn.faults.set({ kind: "reset", after: true });
    const { count } = standIn.requests();
    for (let request = 0; request < 20; request++) assert.equal((await ask()).status, 200);
    const all = standIn.requests();
    const lost = all.count - count;
    assert.ok(lost >= IN_A_ROW, `${lost} answers were lost`);
    standIn.faults.clear();
    await recovery();
    assert.equal((await ask()).headers["x-ratelimit-remaining"], String(50 - 20 - 1));
  });

  it("one failure is one request's, and memory goes on from where the store was", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: "50,3600" });
    await ask(OTHER);
    const seen = [];
    for (let request = 0; request < 6; request++) {
      if (request % 2 === 1) standIn.faults.set({ ...REFUSING, times: 1 });
      const { headers } = await ask();
      seen.push(`${headers["x-ratelimit-remaining"]} ${headers["x-ratelimit-store"] ?? "upstash"}`);
    }
    assert.deepEqual(seen, ["49 upstash", "48 memory", "47 upstash", "46 memory", "45 upstash", "44 memory"]);
    assert.equal(limiter.logs(), "", "what passes by itself is nobody's business");
  });

  it("half of twenty failures open the breaker, though no five come in a row", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: "50,3600" });
    await ask(OTHER);
    for (let failures = 1; failures <= 10; failures++) {
      assert.equal(limiter.logs(), "");
      standIn.faults.set({ kind: "status", times: 1 });
      await ask();
      if (failures < 10) await ask();
    }
    await limiter.logged(/Redis: HTTP status 500; not asked/);
    assert.equal(await health(), OPEN);
  });

  it("what callers were admitted that do not come back is counted all the same", async () => {
    limiter = await limiterOn(standIn);
    await ask(OTHER);
    standIn.faults.set(REFUSING);
    const callers = Array.from({ length: 40 }, (_, i) => `198.18.9.${i}`);
    for (const caller of callers) for (let request = 0; request < 2; request++) assert.equal((await ask(caller)).status, 200);
    standIn.faults.clear();
    await recovery();
    const redis = await standIn.redis.client();
    const consumed = async (caller) => (await redis.get(`${PREFIX}general:${caller}`))?.split("=")[1];
    await within((async () => {
      while (!(await Promise.all(callers.map(consumed))).every((units) => units === "2")) await ask(OTHER);
    })(), "all of it to be counted", 30_000);
  });

  it("blocks are set in memory as well", async () => {
    limiter = await limiterOn(standIn, { RATE_LIMIT_GENERAL: `${LIMIT},3600,7200` });
    standIn.faults.set({ kind: "status" });
    assert.deepEqual(await statuses(), LIMITED);
    const { blocked, retryAfter } = (await ask()).json();
    assert.equal(blocked, true);
    assert.ok(retryAfter > 7100 && retryAfter <= 7200, String(retryAfter));
  });

  for (const rule of ["memory", "allow", "deny"]) {
    it(`a denial that Upstash gave before holds where others meet \`${rule}\`, without asking`, async () => {
      limiter = await limiterOn(standIn, { RATE_LIMIT_POLICIES: { general: { on_store_failure: rule } } });
      assert.deepEqual(await statuses(), LIMITED);
      standIn.faults.set({ kind: "status" });
      const { count } = standIn.requests();
      assert.equal((await ask()).status, 429);
      assert.equal(standIn.requests().count, count);
      assert.equal(await health(), SOUND);
      assert.equal((await ask(OTHER)).status, rule === "deny" ? 503 : 200);
    });
  }

  it("a hundred callers at once are each held to their limit", async () => {
    limiter = await limiterOn(standIn);
    standIn.faults.set({ kind: "status" });
    const callers = Array.from({ length: 100 }, (_, i) => `198.18.8.${i}`);
    const seen = await Promise.all(callers.flatMap((caller) => [1, 2, 3, 4, 5].map(() => ask(caller))));
    assert.equal(seen.filter(({ status }) => status === 200).length, 100 * LIMIT);
    assert.equal(seen.filter(({ status }) => status === 429).length, 100 * 2);
    await limiter.logged(/Redis: HTTP status 500/);
  });

  it("NOSCRIPT for ever: EVAL decides, two requests a decision, and nothing is degraded", async () => {
    limiter = await limiterOn(standIn);
    standIn.faults.set({ kind: "noscript" });
    assert.deepEqual(await statuses(), LIMITED);
    // The fifth was a remembered denial.
    const sent = standIn.requests().last.map(({ commands }) => commands[0][0]);
    assert.deepEqual(sent, ["EVALSHA", "EVAL", "EVALSHA", "EVAL", "EVALSHA", "EVAL", "EVALSHA", "EVAL"]);
    assert.equal(await health(), SOUND);
    assert.equal(limiter.logs(), "");
  });

  it("NOSCRIPT to EVAL as well: two requests, no third, and memory", async () => {
    limiter = await limiterOn(standIn);
    standIn.faults.set(saying('{"error":"NOSCRIPT No matching script. Please use EVAL."}', 400));
    assert.deepEqual(await statuses(), LIMITED);
    assert.equal(standIn.requests().count, 2 * LIMITED.length);
    assert.equal(await health(), OPEN);
    await limiter.logged(/Redis: Redis refused the command: NOSCRIPT/);
  });

  it("the script is forgotten: loaded again, by one decision, with no fault", async () => {
    limiter = await limiterOn(standIn);
    await ask(OTHER);
    await (await standIn.redis.client()).scriptFlush();
    const { count } = standIn.requests();
    assert.deepEqual(await statuses(), LIMITED);
    // Two for the first, one for each other but the last, which is remembered.
    assert.equal(standIn.requests().count - count, 2 + 3);
    assert.equal(limiter.logs(), "");
  });

  it("absurd answers of the right shape are no reason to break", async () => {
    const MOST = "18446744073709551615";
    const SOUND_NUMBERS = [1, 2, 0, 1, 1, 0, 0];
    for (const [numbers, state] of [
      [[0, 0, MOST, MOST, MOST, MOST, 0], ""],
      [[1, 4294967295, MOST, MOST, MOST, 0, 0], ""],
      [[2, 4294967295, MOST, MOST, MOST, MOST, 0], ""],
      [[0, 0, "9007199254740993", 0, 0, 0, 0], ""],
      [[1, 0, 0, 0, 0, 0, 0], ""],
      [SOUND_NUMBERS, "garbage"],
      [SOUND_NUMBERS, "sw:60000:4503599627370496:75059993789:0=4294967295"],
      [SOUND_NUMBERS, "sw:0:1:1:0=1"],
      [SOUND_NUMBERS, "tb:3600000:4503599627370496:4503599627370496:1"],
      [SOUND_NUMBERS, "fw:3600000:4503599627370496:4294967295"],
    ]) {
      for (const dialect of ["x-ratelimit", "ietf"]) {
        limiter = await limiterOn(standIn, { RATE_LIMIT_HEADERS: dialect });
        const answers = async () => {
          for (let request = 0; request < 2; request++) {
            const { status } = await ask();
            assert.ok([200, 429].includes(status), `${status} on ${numbers} ${state}`);
          }
        };
        standIn.faults.set(saying(`{"result":[null,null,[${numbers},${JSON.stringify(state)}]]}`));
        await answers();
        // What memory made of the state.
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

describe("a store that does not answer in time", () => {
  const TIMEOUT = 200;
  let store;
  afterEach(async () => {
    await limiter?.stop();
    await store?.stop();
  });

  /** A store that begins its answer with `begin` and never ends it; `aborted(n)` waits until n calls were abandoned. */
  async function startStalling(begin) {
    const gone = [];
    store = await startOrigin((_, response) => {
      gone.push(once(response, "close"));
      begin(response);
    });
    return (count) => {
      assert.equal(gone.length, count, "each decision was sent once");
      return within(Promise.all(gone), "the end of every call");
    };
  }

  for (const [what, begin] of [
    ["nothing", () => {}],
    ["headers and no body", (response) => response.writeHead(200, { "Content-Type": "application/json" }).flushHeaders()],
    ["half an answer", (response) => response.writeHead(200, { "Content-Type": "application/json" }).write('{"result":[null,nu')],
    ["an answer drop by drop", (response) => {
      response.writeHead(200, { "Content-Type": "application/json" });
      const drops = setInterval(() => response.write(" "), 20);
      response.on("close", () => clearInterval(drops));
    }],
    ["an error's headers", (response) => response.writeHead(500).flushHeaders()],
  ]) {
    it(`${what}: REDIS_TIMEOUT ends the call, and memory decides`, async () => {
      const aborted = await startStalling(begin);
      limiter = await limiterOn(store, { REDIS_TIMEOUT: TIMEOUT });
      const started = performance.now();
      assert.deepEqual(await within(statuses(), "the answers"), LIMITED);
      const took = performance.now() - started;
      // Waited for, each time, and then no longer.
      assert.ok(took >= LIMITED.length * TIMEOUT * 0.9, `${took} ms`);
      await aborted(LIMITED.length);
      assert.equal(await health(), OPEN);
      await limiter.logged(/Redis: no answer within REDIS_TIMEOUT/);
      assert.deepEqual(logged("no answer within REDIS_TIMEOUT"), [1, 0, 0]);
      assertDiscreet(limiter.logs());
    });
  }

  it("many at once each wait their own time, not each other's", async () => {
    const aborted = await startStalling(() => {});
    limiter = await limiterOn(store, { REDIS_TIMEOUT: 1000 });
    const answers = Promise.all(Array.from({ length: 50 }, () => ask()));
    // One after the other they would take 50 s.
    const seen = await within(answers, "fifty answers");
    assert.equal(seen.filter(({ status }) => status === 200).length, LIMIT);
    assert.equal(seen.filter(({ status }) => status === 429).length, 50 - LIMIT);
    await aborted(50);
    await limiter.logged(/Redis: no answer within REDIS_TIMEOUT/);
    const [opened, , closed] = logged("no answer within REDIS_TIMEOUT");
    assert.deepEqual([opened, closed], [1, 0], "the last of them may have begun a probe");
  });

  it("NOSCRIPT does not double the time: EVAL has what EVALSHA left", async () => {
    const gone = [];
    store = await startOrigin(async (_, response, received) => {
      const [verb] = JSON.parse(await received.body);
      if (verb !== "EVALSHA") return gone.push(once(response, "close"));
      setTimeout(() => response.writeHead(400).end('{"error":"NOSCRIPT No matching script."}'), 1500);
    });
    limiter = await limiterOn(store, { REDIS_TIMEOUT: 2000 });
    const started = performance.now();
    assert.equal((await ask()).status, 200);
    const took = performance.now() - started;
    assert.equal(gone.length, 1);
    await within(gone[0], "the end of EVAL's call");
    assert.ok(took >= 1900 && took < 1500 + 2000 - 200, `${took} ms`);
  });
});

describe("a store that is not there", () => {
  afterEach(() => limiter?.stop());

  it("its name does not resolve", async () => {
    limiter = await limiterOn({ url: "http://no-such-host.invalid" });
    assert.deepEqual(await statuses(), LIMITED);
    assert.match(await health(), /^degraded, memory/);
    await limiter.logged(/Redis: cannot be reached/);
    assertDiscreet(limiter.logs());
  });
});

describe("a store that points elsewhere", () => {
  let store, elsewhere;
  afterEach(async () => {
    await limiter?.stop();
    await store?.stop();
    await elsewhere?.stop();
  });

  for (const status of [301, 302, 303, 307, 308]) {
    it(`a redirect (${status}) is not followed: neither token nor decision go to another host`, async () => {
      elsewhere = await startOrigin((_, response) => response.end('{"result":null}'));
      store = await startOrigin((_, response) => response.writeHead(status, { Location: `${elsewhere.url}/elsewhere` }).end());
      limiter = await limiterOn(store);
      assert.deepEqual(await statuses(), LIMITED);
      assert.equal(store.requests.length, LIMITED.length);
      assert.deepEqual(elsewhere.requests.map(({ method, rawHeaders }) => [method, ...rawHeaders].join(" ")), []);
    });
  }
});

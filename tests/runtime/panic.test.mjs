/**
 * A trap in the middle of a request, as a panic or exhausted memory causes one. It ends the Worker's instance, and the next
 * request starts a fresh one. The Worker is the built one, and `tests/harness/inside.mjs` makes one of its imports trap.
 */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { PLANTED_SECRETS } from "../harness/fixtures.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { INSIDE, TRAP } from "../harness/inside.mjs";
import { DOWN } from "../harness/limited.mjs";
import { open, send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";

const LIMIT = 5;
const CALLER = "198.18.7.9";

let limiter, origin;
afterEach(async () => {
  await limiter?.stop();
  await origin?.stop();
  [limiter, origin] = [];
});

async function start(vars = {}) {
  const { UPSTASH_REDIS_REST_TOKEN: _, ...secrets } = PLANTED_SECRETS;
  limiter = await startWorkerd({
    modules: INSIDE,
    vars: { ...secrets, RATE_LIMIT_GENERAL: `${LIMIT},3600`, RATE_LIMIT_IP: "off", ...vars },
  });
}

/**
 * The variables of a limiter on Upstash. The runtime ends a request once no pending event could continue it. The timer of a call
 * to the store is such an event, even after the call has ended. So a request that cannot continue may last `REDIS_TIMEOUT`.
 */
const upstash = (standIn) => ({
  UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: PLANTED_SECRETS.UPSTASH_REDIS_REST_TOKEN, REDIS_TIMEOUT: 1500,
});

const ask = (headers = {}, path = "/") => send(limiter.url, { path, headers: { "CF-Connecting-IP": CALLER, ...headers } });

/** Sends a request. Returns its status and the remaining units: "200 4". */
async function statusAndRemaining(headers) {
  const answer = await ask(headers);
  return `${answer.status} ${answer.headers["x-ratelimit-remaining"]}`;
}

/** Asserts that the runtime answered in place of the Worker. In a deployment Cloudflare shows its own page (error 1101). */
function assertTrapped(answer) {
  assert.equal(answer.status, 500);
  assert.equal(answer.text(), "Internal Server Error");
  assert.deepEqual(Object.keys(answer.headers).sort(), ["connection", "content-length"]);
}

/** Waits until the log has reported `times` ended instances, and asserts that it contains nothing of the requests. */
async function assertLogged(times = 1) {
  await limiter.logged(/module failed; .*: RuntimeError: unreachable/, times);
  for (const secret of [...Object.values(PLANTED_SECRETS), CALLER]) assert.ok(!limiter.logs().includes(secret), `the log contains ${secret}`);
}

describe("a trap with memory as the store", () => {
  const places = {
    "while the clock is read": "now",
    "while the clock is read a second time": "now 2",
    "while a header is read": "header",
  };
  for (const [place, name] of Object.entries(places)) {
    it(`${place} makes its request a bare 500, and counters start afresh`, async () => {
      await start();
      for (const remaining of [4, 3, 2]) assert.equal(await statusAndRemaining(), `200 ${remaining}`);
      // Only a request to the control plane always reads a header.
      const path = name === "header" ? "/_limiter/health" : "/";
      assertTrapped(await ask({ [TRAP]: name }, path));
      for (const remaining of [4, 3]) assert.equal(await statusAndRemaining(), `200 ${remaining}`);
      await assertLogged();
    });
  }

  it("affects one request each, 20 times in a row", async () => {
    await start();
    for (let time = 0; time < 20; time++) {
      assertTrapped(await ask({ [TRAP]: "now" }));
      assert.equal(await statusAndRemaining(), "200 4");
    }
    await assertLogged(20);
    assert.ok(limiter.alive);
  });

  it("is followed by a health answer of the fresh instance", async () => {
    await start();
    assertTrapped(await ask({ [TRAP]: "now" }));
    const health = await send(limiter.url, { path: "/_limiter/health", headers: { Authorization: `Bearer ${PLANTED_SECRETS.ADMIN_TOKEN}` } });
    assert.deepEqual([health.status, health.json().status, health.json().errors], [200, "ok", []]);
  });

  it("ends a request to the control plane, which no limit applies to, as well", async () => {
    await start();
    const health = await send(limiter.url, { path: "/_limiter/health", headers: { [TRAP]: "now" } });
    assertTrapped(health);
    assert.equal(await statusAndRemaining(), "200 4");
  });
});

describe("requests in flight when another one traps", () => {
  /** Starts a limiter and an origin that answers request `n` when `answers[n]()` is called. */
  async function startWithHeldAnswers() {
    const answers = [];
    origin = await startOrigin((_, response) => answers.push(() => response.end("late")));
    await start({ ORIGIN_URL: origin.url });
    return answers;
  }

  it("are answered by their origin, whether or not another request has arrived since", async () => {
    for (const another of [false, true]) {
      const answers = await startWithHeldAnswers();
      const waiting = [ask(), ask()];
      await origin.request(1);
      assertTrapped(await ask({ [TRAP]: "now" }));
      let next;
      if (another) {
        next = ask();
        await origin.request(2);
      }
      for (const answer of answers.splice(0)) answer();
      for (const { status, text } of await within(Promise.all(waiting), "the requests in flight")) {
        assert.deepEqual([status, text()], [200, "late"]);
      }
      if (another) assert.equal((await next).status, 200);

      const later = [ask(), ask()];
      await origin.request(another ? 4 : 3);
      for (const answer of answers.splice(0)) answer();
      for (const { status, text } of await Promise.all(later)) assert.deepEqual([status, text()], [200, "late"]);
      await assertLogged();
      await limiter.stop();
      await origin.stop();
    }
  });

  it("get the rest of an answer that has already begun", async () => {
    let finish;
    origin = await startOrigin((_, response) => {
      response.write("first, ");
      finish = () => response.end("last");
    });
    await start({ ORIGIN_URL: origin.url });
    const { response } = await open(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
    assertTrapped(await ask({ [TRAP]: "now" }));
    finish();
    const chunks = [];
    for await (const chunk of response) chunks.push(chunk);
    assert.equal(Buffer.concat(chunks).toString(), "first, last");
  });
});

describe("a trap with Upstash as the store", () => {
  let standIn;
  before(async () => {
    standIn = await startStandIn({ token: PLANTED_SECRETS.UPSTASH_REDIS_REST_TOKEN });
  });
  after(() => standIn?.stop());
  afterEach(() => standIn.reset());

  it("leaves limits in force, whether it comes before the store has decided or after", async () => {
    await start(upstash(standIn));
    for (const remaining of [4, 3]) assert.equal(await statusAndRemaining(), `200 ${remaining}`);
    assertTrapped(await ask({ [TRAP]: "now" }));
    assert.equal(await statusAndRemaining(), "200 2");
    // The request is counted, but nobody reads the store's answer.
    assertTrapped(await ask({ [TRAP]: "resume" }));
    assert.equal(await statusAndRemaining(), "200 0");
    for (let request = 0; request < 2; request++) assert.equal(await statusAndRemaining(), "429 0");
    // The remembered denial is lost with the instance. The store still denies.
    assertTrapped(await ask({ [TRAP]: "now" }));
    assert.equal(await statusAndRemaining(), "429 0");
    await assertLogged(3);
  });

  it("makes requests that wait for the store 500, at the latest after REDIS_TIMEOUT", async () => {
    await start(upstash(standIn));
    assert.equal(await statusAndRemaining(), "200 4");
    standIn.faults.set({ kind: "delay", ms: 300, times: 2 });
    const { count } = standIn.requests();
    const waiting = [ask(), ask()];
    await within((async () => {
      while (standIn.requests().count < count + 2) await new Promise(setImmediate);
    })(), "both at the store");
    assertTrapped(await ask({ [TRAP]: "now" }));
    for (const answer of await within(Promise.all(waiting), "the requests in flight")) assertTrapped(answer);
    // They were counted. Only their answers are lost.
    assert.equal(await statusAndRemaining(), "200 1");
  });

  it("leaves nothing locked if it comes while the fifth failure opens the breaker", async () => {
    await start(upstash(standIn));
    standIn.faults.set({ kind: "status" });
    for (let failure = 1; failure < 5; failure++) assert.equal((await ask()).status, 200);
    // The breaker draws a random number for its wait while it holds the circuit.
    assertTrapped(await ask({ [TRAP]: "getRandomValues" }));
    assert.equal((await ask()).headers["x-ratelimit-store"], "memory");
    standIn.faults.clear();
    const answer = await ask();
    assert.deepEqual([answer.status, answer.headers["x-ratelimit-store"]], [200, undefined]);
  });

  it("leaves nothing locked if it comes while an open breaker's probe is answered", async () => {
    await start({ ...upstash(standIn), REDIS_MAX_RECONNECT_ATTEMPTS: 0, RATE_LIMIT_GENERAL: "100000,3600" });
    const breaker = async () => (await send(limiter.url, { path: "/_limiter/health" })).json().breaker;
    standIn.faults.set({ kind: "status" });
    for (let failure = 0; failure < 5; failure++) assert.equal((await ask()).status, 200);
    assert.equal(await breaker(), "open");
    // Only the probe reads an answer of the store.
    const probe = await within((async () => {
      for (;;) {
        const answer = await ask({ [TRAP]: "resume" });
        if (answer.status !== 200) return answer;
      }
    })(), "the probe");
    assertTrapped(probe);
    standIn.faults.clear();
    const answer = await ask();
    assert.deepEqual([answer.status, answer.headers["x-ratelimit-store"]], [200, undefined]);
    assert.equal(await breaker(), "closed");
  });

  it("in the background fails no request, and the backlog is not sent twice", async () => {
    await start(upstash(standIn));
    const other = { "CF-Connecting-IP": "198.18.7.1" };
    assert.equal((await ask(other)).status, 200); // loads the script
    standIn.faults.set({ ...DOWN, times: 2 });
    for (const remaining of [4, 3]) assert.equal(await statusAndRemaining(), `200 ${remaining}`);
    // The store's first answer is for this caller, its second for the reconciliation.
    assert.equal((await ask({ ...other, [TRAP]: "resume 2" })).status, 200);
    await assertLogged();
    assert.equal(await statusAndRemaining(), "200 2");
  });
});

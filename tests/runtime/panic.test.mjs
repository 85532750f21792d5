/**
 * A trap in the middle of a request, as a panic or an exhausted memory is one: it ends the Worker's instance, and the next
 * request begins with a fresh one. The Worker is as it was built; `tests/harness/inside.mjs` has one of its imports trap.
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
 * On Upstash. The runtime gives a request up once nothing is left that could go on with it; the time-out of its call to the
 * store is such a thing, be the call long over.
 */
const upstash = (standIn) => ({
  UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: PLANTED_SECRETS.UPSTASH_REDIS_REST_TOKEN, REDIS_TIMEOUT: 1500,
});

const ask = (headers = {}, path = "/") => send(limiter.url, { path, headers: { "CF-Connecting-IP": CALLER, ...headers } });

/** Status and what is left: "200 4". */
async function standing(headers) {
  const answer = await ask(headers);
  return `${answer.status} ${answer.headers["x-ratelimit-remaining"]}`;
}

/** What the runtime answers in place of a Worker that did not; deployed, Cloudflare has a page of its own for it (error 1101). */
function assertTrapped(answer) {
  assert.equal(answer.status, 500);
  assert.equal(answer.text(), "Internal Server Error");
  assert.deepEqual(Object.keys(answer.headers).sort(), ["connection", "content-length"]);
}

/** Waits until the log says so many times that an instance has ended; it says where, and nothing of what was being asked. */
async function assertLogged(times = 1) {
  await limiter.logged(/Critical RuntimeError: unreachable/, times);
  for (const told of [...Object.values(PLANTED_SECRETS), CALLER]) assert.ok(!limiter.logs().includes(told), told);
}

describe("a trap, with memory as the store", () => {
  const places = {
    "as the clock is read": "now",
    "as it is read again": "now 2",
    "as a header is read": "header",
  };
  for (const [place, name] of Object.entries(places)) {
    it(`${place}: its request is a bare 500, and counters start afresh`, async () => {
      await start();
      for (const remaining of [4, 3, 2]) assert.equal(await standing(), `200 ${remaining}`);
      // Only a path of the control plane has a header read in any case.
      const path = name === "header" ? "/_limiter/health" : "/";
      assertTrapped(await ask({ [TRAP]: name }, path));
      for (const remaining of [4, 3]) assert.equal(await standing(), `200 ${remaining}`);
      await assertLogged();
    });
  }

  it("time and again: each is one request's", async () => {
    await start();
    for (let time = 0; time < 20; time++) {
      assertTrapped(await ask({ [TRAP]: "now" }));
      assert.equal(await standing(), "200 4");
    }
    await assertLogged(20);
    assert.ok(limiter.alive);
  });

  it("health answers with the fresh instance's word", async () => {
    await start();
    assertTrapped(await ask({ [TRAP]: "now" }));
    const health = await send(limiter.url, { path: "/_limiter/health", headers: { Authorization: `Bearer ${PLANTED_SECRETS.ADMIN_TOKEN}` } });
    assert.deepEqual([health.status, health.json().status, health.json().errors], [200, "ok", []]);
  });

  it("a request that limits do not meet is not spared, either", async () => {
    await start();
    const health = await send(limiter.url, { path: "/_limiter/health", headers: { [TRAP]: "now" } });
    assertTrapped(health);
    assert.equal(await standing(), "200 4");
  });
});

describe("requests in flight when another one traps", () => {
  /** An origin that answers when it is told to: `answers[n]()`. */
  async function startHolding() {
    const answers = [];
    origin = await startOrigin((_, response) => answers.push(() => response.end("late")));
    await start({ ORIGIN_URL: origin.url });
    return answers;
  }

  it("go on to their origin and back: they are decided, whether or not another request has come", async () => {
    for (const another of [false, true]) {
      const answers = await startHolding();
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

  it("go on where the answer is on its way already", async () => {
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

describe("a trap, with Upstash as the store", () => {
  let standIn;
  before(async () => {
    standIn = await startStandIn({ token: PLANTED_SECRETS.UPSTASH_REDIS_REST_TOKEN });
  });
  after(() => standIn?.stop());
  afterEach(() => standIn.reset());

  it("limits hold on, before the store has decided and after", async () => {
    await start(upstash(standIn));
    for (const remaining of [4, 3]) assert.equal(await standing(), `200 ${remaining}`);
    assertTrapped(await ask({ [TRAP]: "now" }));
    assert.equal(await standing(), "200 2");
    // Counted, but its answer is not read any more.
    assertTrapped(await ask({ [TRAP]: "resume" }));
    assert.equal(await standing(), "200 0");
    for (let request = 0; request < 2; request++) assert.equal(await standing(), "429 0");
    // The remembered denial went with the instance; the store's does not.
    assertTrapped(await ask({ [TRAP]: "now" }));
    assert.equal(await standing(), "429 0");
    await assertLogged(3);
  });

  it("requests that wait for the store are 500 by the end of their REDIS_TIMEOUT", async () => {
    await start(upstash(standIn));
    assert.equal(await standing(), "200 4");
    standIn.faults.set({ kind: "delay", ms: 300, times: 2 });
    const { count } = standIn.requests();
    const waiting = [ask(), ask()];
    await within((async () => {
      while (standIn.requests().count < count + 2) await new Promise(setImmediate);
    })(), "both at the store");
    assertTrapped(await ask({ [TRAP]: "now" }));
    for (const answer of await within(Promise.all(waiting), "the requests in flight")) assertTrapped(answer);
    // They were counted: what is lost is their answers.
    assert.equal(await standing(), "200 1");
  });

  it("leaves nothing locked: the fifth failure, while the breaker is being opened", async () => {
    await start(upstash(standIn));
    standIn.faults.set({ kind: "status" });
    for (let failure = 1; failure < 5; failure++) assert.equal((await ask()).status, 200);
    // Chance is asked for the wait, with the circuit in hand.
    assertTrapped(await ask({ [TRAP]: "getRandomValues" }));
    assert.equal((await ask()).headers["x-ratelimit-store"], "memory");
    standIn.faults.clear();
    const answer = await ask();
    assert.deepEqual([answer.status, answer.headers["x-ratelimit-store"]], [200, undefined]);
  });

  it("nor with the probe of an open breaker", async () => {
    await start({ ...upstash(standIn), REDIS_MAX_RECONNECT_ATTEMPTS: 0, RATE_LIMIT_GENERAL: "100000,3600" });
    const breaker = async () => (await send(limiter.url, { path: "/_limiter/health" })).json().breaker;
    standIn.faults.set({ kind: "status" });
    for (let failure = 0; failure < 5; failure++) assert.equal((await ask()).status, 200);
    assert.equal(await breaker(), "open");
    // None but the probe reads an answer of the store's.
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

  it("in the background it is no request's, and what the store was told is not told again", async () => {
    await start(upstash(standIn));
    const other = { "CF-Connecting-IP": "198.18.7.1" };
    assert.equal((await ask(other)).status, 200); // the script is loaded
    standIn.faults.set({ ...DOWN, times: 2 });
    for (const remaining of [4, 3]) assert.equal(await standing(), `200 ${remaining}`);
    // The store's first answer is to this caller, its second to the reconciliation.
    assert.equal((await ask({ ...other, [TRAP]: "resume 2" })).status, 200);
    await assertLogged();
    assert.equal(await standing(), "200 2");
  });
});

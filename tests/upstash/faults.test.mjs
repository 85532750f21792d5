import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { call, run } from "./rest-caller.mjs";
import { startStandIn } from "./stand-in.mjs";

let standIn;
before(async () => {
  standIn = await startStandIn();
});
beforeEach(() => standIn.reset());
after(() => standIn.stop());

/** Sends an increment that meets the fault, and returns its answer and whether Redis ran it. */
async function increment() {
  const answer = await call(standIn, "/", ["INCR", "n"]).catch((error) => ({ error }));
  standIn.faults.clear();
  const direct = await standIn.redis.client();
  return { ...answer, ran: (await direct.get("n")) === "1" };
}

/** Waits until a request has met this fault. */
async function arrived(fault) {
  while (!standIn.requests().last.some((request) => request.fault === fault)) await new Promise(setImmediate);
}

const CANNED = [
  [{ kind: "status", status: 429, retryAfter: 7 }, { status: 429, json: { error: "ERR injected fault: 429" } }],
  [{ kind: "status" }, { status: 500, json: { error: "ERR injected fault: 500" } }],
  [{ kind: "status", status: 503, body: "busy", contentType: "text/plain" }, { status: 503, text: "busy" }],
  [{ kind: "html" }, { status: 200, html: true }],
  [{ kind: "html", status: 502 }, { status: 502, html: true }],
  [{ kind: "empty" }, { status: 200, text: "" }],
  [{ kind: "empty", status: 204 }, { status: 204, text: "" }],
  [{ kind: "result", value: { a: 1 } }, { status: 200, json: { result: { a: 1 } } }],
  [{ kind: "result", value: "garbage" }, { status: 200, json: { result: "garbage" } }],
  [{ kind: "unauthorized" }, { status: 401, json: { error: "WRONGPASS invalid or missing auth token" } }],
];

for (const [fault, expected] of CANNED) {
  for (const after of [false, true]) {
    test(`the fault ${JSON.stringify(fault)} applies ${after ? "after" : "before"} the command runs`, async () => {
      standIn.faults.set({ ...fault, after });
      const { status, text, json, headers, ran } = await increment();
      assert.equal(status, expected.status);
      if (expected.json) assert.deepEqual(json, expected.json);
      if (expected.text !== undefined) assert.equal(text, expected.text);
      if (expected.html) assert.match(headers.get("content-type") + text, /^text\/html.*<!DOCTYPE html>/);
      if (fault.retryAfter) assert.equal(headers.get("retry-after"), "7");
      assert.equal(ran, after);
    });
  }
}

test("a quota fault answers as if the plan were used up, and costs nothing", async () => {
  standIn.faults.set({ kind: "quota" });
  const { status, json, ran } = await increment();
  assert.equal(status, 400);
  assert.match(json.error, /^ERR max requests limit exceeded\. Limit: 500000, Usage: 500000\. See https:/);
  assert.equal(ran, false);
  assert.equal(await standIn.billed(), 0);
});

for (const after of [false, true]) {
  test(`a reset applies ${after ? "after" : "before"} the command runs`, async () => {
    standIn.faults.set({ kind: "reset", after });
    const { error, ran } = await increment();
    assert.equal(error.cause.code, "ECONNRESET");
    assert.equal(ran, after);
    assert.equal(await standIn.billed(), after ? 1 : 0);
  });

  test(`a hang applies ${after ? "after" : "before"} the command runs`, async () => {
    standIn.faults.set({ kind: "hang", after });
    const giveUp = new AbortController();
    const pending = call(standIn, "/", ["INCR", "n"], { signal: giveUp.signal });
    await arrived("hang");
    standIn.faults.clear();
    // A later request is answered while the first hangs. The connection to Redis keeps their order.
    assert.equal(await run(standIn, "GET", "n"), after ? "1" : null);
    giveUp.abort();
    await assert.rejects(pending, { name: "AbortError" });
    assert.equal(standIn.requests().last[0].status, null);
  });

  test(`a delay applies ${after ? "after" : "before"} the command runs`, async () => {
    standIn.faults.set({ kind: "delay", ms: 300, after, times: 1 });
    const start = performance.now();
    const pending = call(standIn, "/", ["INCR", "n"]);
    await arrived("delay");
    assert.equal(await run(standIn, "GET", "n"), after ? "1" : null);
    assert.deepEqual((await pending).json, { result: 1 });
    assert.ok(performance.now() - start >= 299);
  });
}

test("a delayed request runs although its caller has disconnected", async () => {
  standIn.faults.set({ kind: "delay", ms: 50, times: 1 });
  const giveUp = new AbortController();
  const pending = call(standIn, "/", ["RPUSH", "done", "x"], { signal: giveUp.signal });
  await arrived("delay");
  giveUp.abort();
  await assert.rejects(pending);
  const direct = await standIn.redis.client();
  assert.ok(await direct.blPop("done", 10));
});

test("a truncated answer ends after half of its body", async () => {
  standIn.faults.set({ kind: "truncated" });
  const { error, ran } = await increment();
  assert.ok(error instanceof TypeError);
  assert.equal(ran, true);
  standIn.faults.set({ kind: "truncated" });
  const response = await fetch(`${standIn.url}/get/n`, { headers: { Authorization: `Bearer ${standIn.token}` } });
  assert.equal(response.status, 200);
  assert.equal(response.headers.get("content-length"), String('{"result":"1"}'.length));
  const { value } = await response.body.getReader().read();
  assert.equal(Buffer.from(value).toString(), '{"resul');
});

test("a cut answer is a complete HTTP answer with half of the JSON", async () => {
  standIn.faults.set({ kind: "cut" });
  const { status, text, ran } = await increment();
  assert.equal(status, 200);
  assert.equal(text, '{"resu');
  assert.equal(ran, true);
});

test("a noscript fault makes every EVALSHA fail, and all other commands run", async () => {
  const sha = await run(standIn, "SCRIPT", "LOAD", "return 1");
  standIn.faults.set({ kind: "noscript" });
  const noscript = { error: "NOSCRIPT No matching script. Please use EVAL." };
  for (let i = 0; i < 3; i++) {
    const { status, json } = await call(standIn, "/", ["EVALSHA", sha, 0]);
    assert.equal(status, 400);
    assert.deepEqual(json, noscript);
    assert.equal(await run(standIn, "EVAL", "return 1", 0), 1);
  }
  assert.deepEqual((await call(standIn, "/pipeline", [["EVALSHA", sha, 0], ["PING"]])).json, [noscript, { result: "PONG" }]);
  standIn.faults.clear();
  assert.equal(await run(standIn, "EVALSHA", sha, 0), 1);
});

test("a fault ends after its `times`, and then the next applies", async () => {
  standIn.faults.set({ kind: "status", status: 503, times: 2 }, { kind: "empty", times: 1 });
  const statuses = [];
  for (let i = 0; i < 4; i++) statuses.push((await call(standIn, "/", ["PING"])).text);
  assert.deepEqual(statuses, ['{"error":"ERR injected fault: 503"}', '{"error":"ERR injected fault: 503"}', "", '{"result":"PONG"}']);
  assert.deepEqual(standIn.faults.active(), []);
});

test("an invalid fault is refused, and the current faults stay", () => {
  standIn.faults.set({ kind: "hang" });
  for (const bad of [
    {}, undefined, { kind: "toString" }, { kind: "hang", ms: 1 }, { kind: "delay" }, { kind: "hang", times: 0 },
    { kind: "cut", after: false }, { kind: "status", status: 99 }, { kind: "reset", after: "yes" },
  ]) {
    assert.throws(() => standIn.faults.set(bad), TypeError, JSON.stringify(bad));
  }
  assert.deepEqual(standIn.faults.active(), [{ kind: "hang" }]);
});

test("another process can set faults, read statistics and reset over HTTP, at no cost", async () => {
  const set = await call(standIn, "/__stand-in/faults", { kind: "status", status: 503, times: 1 });
  assert.deepEqual(set.json, { faults: [{ kind: "status", status: 503, times: 1 }] });
  assert.equal((await call(standIn, "/", ["SET", "k", "v"])).status, 503);
  await run(standIn, "SET", "k", "v");
  await call(standIn, "/__stand-in/faults", [{ kind: "hang" }]);
  assert.equal((await call(standIn, "/__stand-in/faults", { kind: "nonsense" })).status, 400);
  assert.equal((await call(standIn, "/__stand-in/faults", "{")).status, 400);
  assert.equal((await call(standIn, "/__stand-in/nothing")).status, 404);
  const stats = (await call(standIn, "/__stand-in/stats", undefined, { method: "GET" })).json;
  assert.equal(stats.billed, 1);
  assert.equal(stats.requests, 2);
  assert.deepEqual(stats.last.map(({ fault, status }) => [fault, status]), [["status", 503], [null, 200]]);
  assert.deepEqual(stats.faults, [{ kind: "hang" }]);
  assert.equal((await call(standIn, "/__stand-in/reset")).status, 200);
  assert.equal(await run(standIn, "GET", "k"), null);
  assert.equal(await standIn.billed(), 1);
});

test("stop ends requests that hang or are delayed", async () => {
  const other = await startStandIn({ redis: standIn.redis });
  other.faults.set({ kind: "hang", times: 1 }, { kind: "delay", ms: 3_600_000, times: 1 });
  const pending = [call(other, "/", ["PING"]), call(other, "/", ["PING"])];
  const ended = Promise.allSettled(pending);
  while (other.requests().last.filter(({ fault }) => fault).length < 2) await new Promise(setImmediate);
  await other.stop();
  assert.deepEqual((await ended).map(({ status }) => status), ["rejected", "rejected"]);
  assert.equal(await run(standIn, "PING"), "PONG"); // stop does not end a Redis that the caller owns
});

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { call } from "./rest-caller.mjs";
import { startStandIn } from "./stand-in.mjs";

let bridge;
beforeEach(async () => {
  bridge = await startStandIn({ bridge: true });
});
afterEach(() => bridge.stop());

const answer = async (path, body) => {
  const { status, text } = await call(bridge, path, body);
  return [status, text];
};

test("only the first request is answered with an empty 500", async () => {
  assert.deepEqual(await answer("/", ["PING"]), [500, ""]);
  assert.deepEqual(await answer("/", ["PING"]), [200, '{"result":"PONG"}']);
  assert.deepEqual(await answer("/", ["GET"]), [400, `{"error":"ERR wrong number of arguments for 'get' command"}`]);
});

test("a transaction with an error among its replies is answered with an empty 500 and has run", async () => {
  await answer("/", ["PING"]);
  assert.deepEqual(await answer("/multi-exec", [["SET", "k", "a"], ["INCR", "k"]]), [500, ""]);
  assert.deepEqual(await answer("/", ["GET", "k"]), [200, '{"result":"a"}']);
  assert.deepEqual(await answer("/multi-exec", [["SET", "k", "1"], ["NO"]]), [400, '{"error":"EXECABORT Transaction discarded because of previous errors."}']);
});

test("a command during a transaction is answered QUEUED, and its reply is among the transaction's", async () => {
  await answer("/", ["PING"]);
  const transaction = Array.from({ length: 200 }, () => ["INCR", "n"]);
  const [transactionAnswer, ...meanwhile] = await Promise.all([answer("/multi-exec", transaction), ...Array.from({ length: 30 }, () => answer("/", ["INCR", "m"]))]);
  const queued = meanwhile.filter(([, text]) => text === '{"result":"QUEUED"}').length;
  assert.ok(queued > 0);
  assert.equal(JSON.parse(transactionAnswer[1]).length, 200 + queued);
  assert.deepEqual(await answer("/", ["GET", "m"]), [200, '{"result":"30"}']);
});

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

test("the first request is an empty 500, and no other", async () => {
  assert.deepEqual(await answer("/", ["PING"]), [500, ""]);
  assert.deepEqual(await answer("/", ["PING"]), [200, '{"result":"PONG"}']);
  assert.deepEqual(await answer("/", ["GET"]), [400, `{"error":"ERR wrong number of arguments for 'get' command"}`]);
});

test("a transaction whose reply is an error is an empty 500, and has run", async () => {
  await answer("/", ["PING"]);
  assert.deepEqual(await answer("/multi-exec", [["SET", "k", "a"], ["INCR", "k"]]), [500, ""]);
  assert.deepEqual(await answer("/", ["GET", "k"]), [200, '{"result":"a"}']);
  assert.deepEqual(await answer("/multi-exec", [["SET", "k", "1"], ["NO"]]), [400, '{"error":"EXECABORT Transaction discarded because of previous errors."}']);
});

test("a command that comes amid a transaction is answered QUEUED, and its reply is the transaction's", async () => {
  await answer("/", ["PING"]);
  const transaction = Array.from({ length: 200 }, () => ["INCR", "n"]);
  const [whole, ...amid] = await Promise.all([answer("/multi-exec", transaction), ...Array.from({ length: 30 }, () => answer("/", ["INCR", "m"]))]);
  const queued = amid.filter(([, text]) => text === '{"result":"QUEUED"}').length;
  assert.ok(queued > 0);
  assert.equal(JSON.parse(whole[1]).length, 200 + queued);
  assert.deepEqual(await answer("/", ["GET", "m"]), [200, '{"result":"30"}']);
});

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

test("a command in the body is answered with its result", async () => {
  assert.deepEqual((await call(standIn, "/", ["SET", "k", "v"])).json, { result: "OK" });
  const { status, json, headers } = await call(standIn, "/", ["GET", "k"]);
  assert.equal(status, 200);
  assert.deepEqual(json, { result: "v" });
  assert.match(headers.get("content-type"), /^application\/json/);
});

test("a wrong or missing token is refused with 401 and runs nothing", async () => {
  for (const headers of [{ Authorization: "Bearer wrong" }, { Authorization: "" }, { Authorization: standIn.token }]) {
    const { status, json } = await call(standIn, "/", ["SET", "k", "v"], { headers });
    assert.equal(status, 401);
    assert.deepEqual(json, { error: "WRONGPASS invalid or missing auth token" });
  }
  assert.equal((await fetch(`${standIn.url}/__stand-in/stats`)).status, 401);
  assert.equal(await standIn.billed(), 0);
  assert.equal(await run(standIn, "GET", "k"), null);
});

test("methods other than HEAD, GET, POST and PUT are answered with 405", async () => {
  for (const method of ["DELETE", "PATCH", "OPTIONS"]) assert.equal((await call(standIn, "/get/k", undefined, { method })).status, 405);
  assert.equal((await call(standIn, "/get/k", undefined, { method: "HEAD" })).status, 200);
});

test("a path is a command, to which the body and then the query are appended", async () => {
  const get = { method: "GET" };
  assert.deepEqual((await call(standIn, "/set/foo/a%2Fb%20c", undefined, get)).json, { result: "OK" });
  assert.equal(await run(standIn, "GET", "foo"), "a/b c");
  assert.deepEqual((await call(standIn, "/set/foo/bar/EX/100", undefined, get)).json, { result: "OK" });
  assert.equal(await run(standIn, "TTL", "foo"), 100);

  const bytes = Buffer.from([0, 255, 10, 34]);
  assert.equal((await call(standIn, "/set/bin?EX=50", bytes)).status, 200);
  assert.equal(await run(standIn, "TTL", "bin"), 50);
  const client = await standIn.redis.client();
  assert.equal(await client.sendCommand(["STRLEN", "bin"]), 4);

  assert.deepEqual((await call(standIn, "/set/bin?NX", "x", { method: "PUT" })).json, { result: null });
  assert.equal((await call(standIn, "/", undefined, get)).status, 400);
  assert.equal((await call(standIn, "/get/%ff", undefined, get)).status, 400);
});

test("numbers and booleans in a command become strings, and other types are refused", async () => {
  assert.equal(await run(standIn, "RPUSH", "l", 1, 2.5, true, ""), 4);
  assert.deepEqual(await run(standIn, "LRANGE", "l", 0, -1), ["1", "2.5", "true", ""]);
  for (const bad of [["SET", "k", {}], ["SET", "k", null], ["SET", "k", ["v"]], [], {}, "GET", null]) {
    assert.equal((await call(standIn, "/", JSON.stringify(bad))).status, 400, JSON.stringify(bad));
  }
  assert.equal((await call(standIn, "/", '["SET"')).status, 400);
  assert.equal((await call(standIn, "/", "")).status, 400);
  assert.equal(await run(standIn, "EXISTS", "k"), 0);
});

test("a request above 10 MB is refused, and one of exactly 10 MB is not", async () => {
  assert.equal((await call(standIn, "/set/k", "x".repeat(10 * 1024 * 1024 + 1))).status, 400);
  assert.equal((await call(standIn, "/set/k", "x".repeat(10 * 1024 * 1024))).status, 200);
  assert.equal(await run(standIn, "STRLEN", "k"), 10 * 1024 * 1024);
});

test("every kind of reply is converted to JSON", async () => {
  assert.equal(await run(standIn, "GET", "none"), null);
  assert.equal(await run(standIn, "INCR", "n"), 1);
  assert.deepEqual(await run(standIn, "EVAL", "return {1,{'a',false},redis.status_reply('fine')}", 0), [1, ["a", null], "fine"]);
  assert.deepEqual(await run(standIn, "LRANGE", "none", 0, -1), []);
  assert.equal(await run(standIn, "ECHO", "ü€😀\n\"\\"), "ü€😀\n\"\\");
  assert.equal(await run(standIn, "PING"), "PONG");
});

test("a 64-bit integer keeps all its digits", async () => {
  await run(standIn, "SET", "n", "9223372036854775806");
  assert.equal((await call(standIn, "/", ["INCR", "n"])).text, '{"result":9223372036854775807}');
});

test("a command that fails is answered with 400 and Redis's error", async () => {
  await run(standIn, "SET", "s", "text");
  const cases = [
    [["INCR", "s"], "ERR value is not an integer or out of range"],
    [["GET"], "ERR wrong number of arguments for 'get' command"],
    [["LPUSH", "s", "x"], "WRONGTYPE Operation against a key holding the wrong kind of value"],
    [["EVALSHA", "a".repeat(40), "0"], "NOSCRIPT No matching script. Please use EVAL."],
  ];
  for (const [command, error] of cases) {
    const { status, json } = await call(standIn, "/", command);
    assert.equal(status, 400);
    assert.deepEqual(json, { error });
  }
  assert.match((await call(standIn, "/", ["NOSUCH"])).json.error, /^ERR unknown command/);
});

test("commands that change or block the connection are refused", async () => {
  await run(standIn, "SET", "k", "v");
  for (const command of [["SELECT", "1"], ["multi"], ["SUBSCRIBE", "c"], ["BLPOP", "l", "0"], ["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]]) {
    const { status, json } = await call(standIn, "/", command);
    assert.equal(status, 400);
    assert.match(json.error, /^ERR Command is not available/);
  }
  assert.equal(await run(standIn, "GET", "k"), "v");
});

test("a pipeline is answered with 200 and a result or an error for each command", async () => {
  const { status, json } = await call(standIn, "/pipeline", [["SET", "k", "x"], ["INCR", "k"], ["NOSUCH"], ["GET", "k"]]);
  assert.equal(status, 200);
  assert.deepEqual(json[0], { result: "OK" });
  assert.deepEqual(json[1], { error: "ERR value is not an integer or out of range" });
  assert.match(json[2].error, /unknown command/);
  assert.deepEqual(json[3], { result: "x" });
  assert.equal((await call(standIn, "/pipeline", ["GET", "k"])).status, 400);
  assert.equal((await call(standIn, "/pipeline", [])).status, 400);
});

test("a command that fails in a transaction fails alone, and one that cannot be queued discards the transaction", async () => {
  const ran = await call(standIn, "/multi-exec", [["SET", "k", "x"], ["INCR", "k"], ["GET", "k"]]);
  assert.equal(ran.status, 200);
  assert.deepEqual(ran.json, [{ result: "OK" }, { error: "ERR value is not an integer or out of range" }, { result: "x" }]);
  for (const bad of [["GET"], ["NOSUCH"], ["EXEC"]]) {
    const { status, json } = await call(standIn, "/multi-exec", [["SET", "k", "y"], bad]);
    assert.equal(status, 400);
    assert.equal(typeof json.error, "string");
  }
  assert.equal(await run(standIn, "GET", "k"), "x");
});

test("transactions are atomic, and pipelines interleave", async () => {
  const increments = Array.from({ length: 20 }, () => ["INCR", "n"]);
  const consecutive = ({ json }) => json.every(({ result }, i) => result === json[0].result + i);
  const transactions = await Promise.all(Array.from({ length: 10 }, () => call(standIn, "/multi-exec", increments)));
  assert.ok(transactions.every(consecutive));
  const pipelines = await Promise.all(Array.from({ length: 10 }, () => call(standIn, "/pipeline", increments)));
  assert.ok(!pipelines.every(consecutive));
  assert.equal(await run(standIn, "GET", "n"), "400");
});

test("Upstash-Encoding: base64 encodes every string except errors and a result that is OK", async () => {
  const headers = { "Upstash-Encoding": "base64" };
  const b64 = (text) => Buffer.from(text).toString("base64");
  const ask = async (path, body) => (await call(standIn, path, body, { headers })).json;
  assert.deepEqual(await ask("/", ["SET", "k", "ü"]), { result: "OK" });
  assert.deepEqual(await ask("/", ["GET", "k"]), { result: b64("ü") });
  assert.deepEqual(await ask("/", ["PING"]), { result: b64("PONG") });
  assert.deepEqual(await ask("/", ["EVAL", "return {'a',{'b',1},redis.status_reply('OK')}", 0]), { result: [b64("a"), [b64("b"), 1], b64("OK")] });
  assert.deepEqual(await ask("/", ["INCR", "k"]), { error: "ERR value is not an integer or out of range" });
  assert.deepEqual(await ask("/pipeline", [["SET", "k", "v"], ["GET", "k"]]), [{ result: "OK" }, { result: b64("v") }]);
  assert.deepEqual(await ask("/multi-exec", [["GET", "k"]]), [{ result: b64("v") }]);
});

test("requests are answered with 500 while Redis is down, and served without data and scripts after its restart", async () => {
  const { result: sha } = (await call(standIn, "/", ["SCRIPT", "LOAD", "#!lua flags=allow-key-locking\nreturn 1"])).json;
  await run(standIn, "SET", "k", "v");
  await standIn.redis.kill();
  for (const [path, body] of [["/", ["GET", "k"]], ["/pipeline", [["GET", "k"]]], ["/multi-exec", [["GET", "k"]]]]) {
    const { status, json } = await call(standIn, path, body);
    assert.equal(status, 500);
    assert.match(json.error, /^ERR upstream: /);
  }
  assert.equal(await standIn.billed(), 2);
  await standIn.redis.start();
  assert.equal(await run(standIn, "GET", "k"), null);
  await assert.rejects(run(standIn, "EVALSHA", sha, 0), /^Error: NOSCRIPT/);
});

test("a command in flight when Redis ends is answered with 500", async () => {
  await run(standIn, "PING");
  standIn.redis.pause();
  const pending = call(standIn, "/", ["GET", "k"]);
  while (standIn.requests().count < 2) await new Promise(setImmediate);
  await standIn.redis.kill();
  assert.equal((await pending).status, 500);
  await standIn.redis.start();
});

test("requests are counted and kept without the token, and control requests are not", async () => {
  await run(standIn, "GET", "k");
  await call(standIn, "/pipeline", [["GET", "a"], ["GET", "b"]], { headers: { "X-Probe": "1" } });
  await call(standIn, "/__stand-in/stats", undefined, { method: "GET" });
  const { count, last } = standIn.requests();
  assert.equal(count, 2);
  assert.deepEqual(last.map(({ mode, commands, status }) => ({ mode, commands, status })), [
    { mode: "single", commands: [["GET", "k"]], status: 200 },
    { mode: "pipeline", commands: [["GET", "a"], ["GET", "b"]], status: 200 },
  ]);
  assert.equal(last[1].headers["x-probe"], "1");
  assert.ok(!JSON.stringify(last).includes(standIn.token));
});

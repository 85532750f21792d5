import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { cost } from "./cost.mjs";
import { call, run } from "./rest-caller.mjs";
import { startStandIn } from "./stand-in.mjs";
import { Upstream } from "./upstream.mjs";

const FLAG = "#!lua flags=allow-key-locking\n";
const READ_AND_WRITE = `${FLAG}redis.call('MGET', KEYS[1], KEYS[2]) redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000) return 1`;

let standIn;
before(async () => {
  standIn = await startStandIn();
});
beforeEach(() => standIn.reset());
after(() => standIn.stop());

/** Counts the commands billed while `work` runs. */
const billedFor = async (work) => (await cost(standIn, work)).billed;

test("a command costs 1, and a request for the count costs nothing", async () => {
  assert.equal(await billedFor(() => {}), 0);
  assert.equal(await billedFor(() => run(standIn, "GET", "k")), 1);
  assert.equal(await billedFor(() => call(standIn, "/__stand-in/stats", undefined, { method: "GET" })), 0);
  assert.equal(await billedFor(() => standIn.reset()), -1);
});

test("a script costs 1 and the commands that it runs", async () => {
  const sha = await run(standIn, "SCRIPT", "LOAD", READ_AND_WRITE);
  assert.equal(await billedFor(() => run(standIn, "EVALSHA", sha, 2, "a", "b", "1")), 3);
  assert.equal(await billedFor(() => run(standIn, "EVAL", READ_AND_WRITE, 2, "a", "b", "1")), 3);
  assert.equal(await billedFor(() => run(standIn, "EVAL", "for i = 1, tonumber(ARGV[1]) do redis.call('INCR', KEYS[1]) end", 1, "n", 57)), 58);
});

test("a command that fails costs 1, and a request that never reaches Redis costs nothing", async () => {
  await run(standIn, "SET", "s", "text");
  assert.equal(await billedFor(() => call(standIn, "/", ["INCR", "s"])), 1);
  assert.equal(await billedFor(() => call(standIn, "/", ["GET"])), 1);
  assert.equal(await billedFor(() => call(standIn, "/", ["EVALSHA", "a".repeat(40), "0"])), 1);
  assert.equal(await billedFor(() => call(standIn, "/", ["SELECT", "1"])), 0);
  assert.equal(await billedFor(() => call(standIn, "/", "no JSON")), 0);
  assert.equal(await billedFor(() => call(standIn, "/", ["GET", "k"], { headers: { Authorization: "Bearer wrong" } })), 0);
});

test("a pipeline and a transaction each cost their commands", async () => {
  const commands = [["SET", "k", "1"], ["INCR", "k"], ["EVAL", READ_AND_WRITE, 2, "a", "b", "1"]];
  assert.equal(await billedFor(() => call(standIn, "/pipeline", commands)), 5);
  assert.equal(await billedFor(() => call(standIn, "/multi-exec", commands)), 5);
});

test("commands and scripts of another client cost nothing, even between those of a caller", async () => {
  const direct = await standIn.redis.client();
  const total = await billedFor(async () => {
    const elsewhere = () => direct.eval("redis.call('INCR', KEYS[1]) return redis.call('GET', KEYS[1])", { keys: ["n"] });
    const ours = () => run(standIn, "EVAL", READ_AND_WRITE, 2, "a", "b", "1");
    for (let round = 0; round < 10; round++) await Promise.all([elsewhere(), ours(), elsewhere(), ours(), elsewhere()]);
  });
  assert.equal(total, 10 * 2 * 3);
});

test("the count includes commands that MONITOR has not reported yet", async () => {
  const upstream = new Upstream(standIn.redis); // without HTTP, whose delay would hide a fault
  await upstream.command(["EVAL", "for i = 1, 50000 do redis.call('INCR', KEYS[1]) end", "1", "n"]);
  assert.equal(await upstream.billed(), 50_001);
  upstream.close();
});

test("the count agrees with Redis's commandstats for concurrent requests", async () => {
  const direct = await standIn.redis.client();
  const calls = async () => {
    const info = await direct.info("commandstats");
    return [...info.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)]
      .filter(([, name]) => !["info", "echo", "multi", "exec"].includes(name))
      .reduce((sum, [, , count]) => sum + Number(count), 0);
  };
  const before = await calls();
  const work = (i) => [
    run(standIn, "EVAL", READ_AND_WRITE, 2, `a${i}`, "b", "new\nline \"lua\" ü"),
    call(standIn, "/multi-exec", [["INCR", "n"], ["EVAL", "return redis.call('GET', KEYS[1])", 1, "n"]]),
    call(standIn, "/pipeline", [["SET", `k${i}`, "x"], ["LPUSH", `k${i}`, "wrong type"]]),
    run(standIn, "EVAL", "redis.pcall('LPUSH', KEYS[1], 'x') return redis.call('TIME')", 1, `k${i}`),
  ];
  const billed = await billedFor(() => Promise.all(Array.from({ length: 60 }, (_, i) => work(i)).flat()));
  assert.equal(billed, 60 * (3 + 3 + 2 + 3));
  assert.equal((await calls()) - before, billed);
});

test("the count survives a crash of Redis", async () => {
  await run(standIn, "EVAL", READ_AND_WRITE, 2, "a", "b", "1");
  assert.equal(await standIn.billed(), 3);
  await standIn.redis.kill();
  assert.equal(await standIn.billed(), 3);
  await standIn.redis.start();
  await run(standIn, "EVAL", READ_AND_WRITE, 2, "a", "b", "1");
  assert.equal(await standIn.billed(), 6);
});

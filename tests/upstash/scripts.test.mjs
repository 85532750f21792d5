import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, beforeEach, describe, it, test } from "node:test";
import { call, run } from "./rest-caller.mjs";
import { withoutFlag } from "./scripts.mjs";
import { startStandIn } from "./stand-in.mjs";

const SCRIPT = "#!lua flags=allow-key-locking\nreturn {KEYS[1], ARGV[1]}";
const sha1 = (text) => createHash("sha1").update(text).digest("hex");

let standIn;
before(async () => {
  standIn = await startStandIn();
});
beforeEach(() => standIn.reset());
after(() => standIn.stop());

test("withoutFlag removes only Upstash's flag, and only from the first line", () => {
  assert.equal(withoutFlag("#!lua flags=allow-key-locking\nreturn 1"), "#!lua\nreturn 1");
  assert.equal(withoutFlag("#!lua flags=no-writes,allow-key-locking\nreturn 1"), "#!lua flags=no-writes\nreturn 1");
  assert.equal(withoutFlag("#!lua flags=allow-key-locking,no-writes\nreturn 1"), "#!lua flags=no-writes\nreturn 1");
  for (const same of ["return 1", "#!lua\nreturn 1", "#!lua flags=no-writes\nreturn 1", "-- #!lua flags=allow-key-locking\nreturn 1", "#!lua\n-- flags=allow-key-locking"]) {
    assert.equal(withoutFlag(same), same);
  }
});

test("stock Redis refuses the flag, which is why scripts.mjs exists", async () => {
  const client = await standIn.redis.client();
  await assert.rejects(client.eval(SCRIPT, { keys: ["k"], arguments: ["a"] }), /Unexpected flag in script shebang/);
});

test("EVALSHA finds a script by the SHA of the text that EVAL sent", async () => {
  await assert.rejects(run(standIn, "EVALSHA", sha1(SCRIPT), 1, "k", "a"), /^Error: NOSCRIPT No matching script. Please use EVAL.$/);
  assert.deepEqual(await run(standIn, "EVAL", SCRIPT, 1, "k", "a"), ["k", "a"]);
  assert.deepEqual(await run(standIn, "evalsha", sha1(SCRIPT).toUpperCase(), 1, "k", "b"), ["k", "b"]);
  assert.deepEqual((await call(standIn, "/multi-exec", [["EVALSHA", sha1(SCRIPT), 1, "k", "c"]])).json, [{ result: ["k", "c"] }]);
});

test("SCRIPT LOAD, EXISTS and FLUSH use the SHA of the text that was sent", async () => {
  const sha = sha1(SCRIPT);
  assert.deepEqual(await run(standIn, "SCRIPT", "EXISTS", sha), [0]);
  assert.equal(await run(standIn, "SCRIPT", "LOAD", SCRIPT), sha);
  assert.deepEqual(await run(standIn, "SCRIPT", "EXISTS", sha, "f".repeat(40)), [1, 0]);
  assert.deepEqual(await run(standIn, "EVALSHA", sha, 1, "k", "a"), ["k", "a"]);
  assert.equal(await run(standIn, "SCRIPT", "FLUSH"), "OK");
  assert.deepEqual(await run(standIn, "SCRIPT", "EXISTS", sha), [0]);
  await assert.rejects(run(standIn, "EVALSHA", sha, 1, "k", "a"), /NOSCRIPT/);
});

test("a script without the flag is passed on unchanged", async () => {
  const plain = "return ARGV[1]";
  assert.equal(await run(standIn, "SCRIPT", "LOAD", plain), sha1(plain));
  assert.equal(await run(standIn, "EVALSHA", sha1(plain), 0, "x"), "x");
});

test("an error names the script by the SHA that the caller knows", async () => {
  const failing = "#!lua flags=allow-key-locking\nreturn redis.call('INCR', KEYS[1])";
  await run(standIn, "SET", "s", "text");
  for (const command of [["EVAL", failing], ["EVALSHA", sha1(failing)]]) {
    await assert.rejects(run(standIn, ...command, 1, "s"), new RegExp(sha1(failing)));
  }
});

test("a flag that Redis knows is kept: no-writes still forbids a write", async () => {
  const script = "#!lua flags=allow-key-locking,no-writes\nreturn redis.call('SET', KEYS[1], '1')";
  await assert.rejects(run(standIn, "EVAL", script, 1, "k"), /Write commands are not allowed/);
});

describe("a bridge that does not know the flag", () => {
  it("the bridge passes scripts on unchanged, and stock Redis refuses them", async (t) => {
    const bridge = await startStandIn({ scripts: { unchanged: true } });
    t.after(() => bridge.stop());
    await assert.rejects(run(bridge, "EVAL", SCRIPT, 1, "k", "a"), /ERR Unexpected flag in script shebang: allow-key-locking/);
    await assert.rejects(run(bridge, "EVALSHA", sha1(SCRIPT), 1, "k", "a"), /NOSCRIPT/);
    const plain = SCRIPT.slice(SCRIPT.indexOf("\n") + 1);
    assert.deepEqual(await run(bridge, "EVAL", plain, 1, "k", "a"), ["k", "a"]);
    assert.deepEqual(await run(bridge, "EVALSHA", sha1(plain), 1, "k", "b"), ["k", "b"]);
  });

  it("`refusal` refuses only scripts with the flag", async (t) => {
    const bridge = await startStandIn({ scripts: { refusal: "ERR Invalid flag: allow-key-locking" } });
    t.after(() => bridge.stop());
    await assert.rejects(run(bridge, "EVAL", SCRIPT, 1, "k", "a"), /^Error: ERR Invalid flag: allow-key-locking$/);
    assert.deepEqual(await run(bridge, "EVAL", "return ARGV[1]", 0, "x"), "x");
  });
});

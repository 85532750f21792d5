import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { call, run } from "./rest-caller.mjs";

const CLI = fileURLToPath(new URL("./cli.mjs", import.meta.url));

/** Starts the program. Resolves with what it printed, and promises of its end and of its Redis's end. */
async function start(t, args = [], stdin = "pipe") {
  const child = spawn(process.execPath, [CLI, ...args], { stdio: [stdin, "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  const ended = once(child, "exit");
  const [line] = await once(createInterface({ input: child.stdout }), "line");
  const printed = JSON.parse(line);
  const socket = connect(printed.redisPort, "127.0.0.1").resume().on("error", () => {});
  await once(socket, "connect");
  const redisEnded = new Promise((resolve) => socket.on("close", resolve));
  return { child, ended, redisEnded, ...printed };
}

test("the program prints one line with the URL and the token that it serves", async (t) => {
  const process = await start(t, ["--token", "secret"]);
  assert.equal(process.pid, process.child.pid);
  assert.equal(process.token, "secret");
  assert.equal(await run(process, "SET", "k", "v"), "OK");
  assert.equal(await run(process, "GET", "k"), "v");
  assert.equal((await call(process, "/__stand-in/stats", undefined, { method: "GET" })).json.billed, 2);
  process.child.stdin.end();
  assert.deepEqual(await process.ended, [0, null]);
});

for (const [what, end] of [
  ["its stdin ends", ({ child }) => child.stdin.end()],
  ["it gets SIGTERM", ({ child }) => child.kill("SIGTERM")],
  ["it gets SIGINT", ({ child }) => child.kill("SIGINT")],
]) {
  test(`the program and its Redis end when ${what}, even while a request hangs`, async (t) => {
    const process = await start(t);
    await call(process, "/__stand-in/faults", { kind: "hang" });
    const hanging = assert.rejects(call(process, "/", ["PING"]));
    for (let count = 0; count < 1; ) {
      count = (await call(process, "/__stand-in/stats", undefined, { method: "GET" })).json.requests;
    }
    end(process);
    assert.deepEqual(await process.ended, [0, null]);
    await process.redisEnded;
    await hanging;
  });
}

test("only a signal ends the program with --no-stdin", async (t) => {
  const process = await start(t, ["--no-stdin"], "ignore");
  assert.equal(await run(process, "PING"), "PONG");
  process.child.kill("SIGTERM");
  assert.deepEqual(await process.ended, [0, null]);
  await process.redisEnded;
});

test("--port sets the port, and a taken port is an error", async (t) => {
  const first = await start(t);
  const port = new URL(first.url).port;
  const second = spawn(process.execPath, [CLI, "--port", port], { stdio: ["pipe", "pipe", "pipe"] });
  const errors = [];
  second.stderr.on("data", (data) => errors.push(data));
  assert.deepEqual(await once(second, "close"), [1, null]);
  assert.match(Buffer.concat(errors).toString(), /EADDRINUSE/);
  first.child.stdin.end();
  await first.ended;
  const third = await start(t, ["--port", port]);
  assert.equal(new URL(third.url).port, port);
  third.child.stdin.end();
  await third.ended;
});

test("an invalid port is refused", async () => {
  const child = spawn(process.execPath, [CLI, "--port", "http"], { stdio: ["pipe", "ignore", "ignore"] });
  assert.deepEqual(await once(child, "exit"), [2, null]);
});

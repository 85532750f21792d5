import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { startRedis } from "./redis-server.mjs";

const module = new URL("./redis-server.mjs", import.meta.url).href;

/** Connects to a Redis. The promise `closed` resolves when its process ends, even if that is not a child of this process. */
async function watch(port) {
  const socket = connect(port, "127.0.0.1").resume();
  await once(socket, "connect");
  socket.on("error", () => {});
  return { closed: new Promise((resolve) => socket.on("close", resolve)) };
}

test("Redis listens on loopback, has no persistence, and takes further arguments", async (t) => {
  const redis = await startRedis({ args: ["--maxmemory", "3mb"] });
  t.after(() => redis.stop());
  const client = await redis.client();
  assert.equal(await client.ping(), "PONG");
  assert.equal((await client.sendCommand(["CONFIG", "GET", "maxmemory"]))[1], String(3 * 1024 * 1024));
  assert.equal((await client.sendCommand(["CONFIG", "GET", "save"]))[1], "");
  assert.equal((await client.sendCommand(["CONFIG", "GET", "bind"]))[1], "127.0.0.1");
  assert.match(await client.info("server"), new RegExp(`process_id:${redis.pid}\\r`));
});

test("a Redis that was killed and started again has the same port, another process and no data", async (t) => {
  const redis = await startRedis();
  t.after(() => redis.stop());
  const { port, pid } = redis;
  const before = await redis.client();
  await before.set("k", "v");
  await redis.kill();
  assert.equal(redis.pid, undefined);
  await assert.rejects(before.get("k"));
  await redis.start();
  assert.equal(redis.port, port);
  assert.notEqual(redis.pid, pid);
  assert.equal(await (await redis.client()).get("k"), null);
  await assert.rejects(redis.start(), /already runs/);
});

test("a given port that is taken is an error", async (t) => {
  const taken = createServer().listen(0, "127.0.0.1");
  await once(taken, "listening");
  t.after(() => taken.close());
  await assert.rejects(startRedis({ port: taken.address().port }), /Address already in use/);
});

test("an argument that Redis refuses is an error with Redis's output", async () => {
  await assert.rejects(startRedis({ args: ["--no-such-option", "1"] }), /no-such-option/);
});

test("two Redis servers that start together get different ports", async (t) => {
  const both = await Promise.all([startRedis(), startRedis()]);
  t.after(() => Promise.all(both.map((redis) => redis.stop())));
  assert.notEqual(both[0].port, both[1].port);
});

test("the error says what to install if redis-server is missing", async () => {
  const script = `import(${JSON.stringify(module)}).then((m) => m.startRedis()).catch((e) => console.log(e.message))`;
  const { stdout } = await new Promise((resolve) =>
    execFile(process.execPath, ["-e", script], { env: { PATH: "/nonexistent" } }, (error, stdout) => resolve({ error, stdout })),
  );
  assert.match(stdout, /apt-get install redis-server/);
});

// A killed process cannot remove its temporary directory, which is empty.
for (const [how, end, directoriesLeft] of [
  ["exits", (child) => child.stdin.end(), 0],
  ["is killed", (child) => child.kill("SIGKILL"), 1],
]) {
  // Only Linux has a parent-death signal, which ends Redis after a SIGKILL of its parent.
  test(`Redis ends with a parent process that ${how}`, { skip: how === "is killed" && process.platform !== "linux" }, async (t) => {
    const dir = mkdtempSync(join(tmpdir(), "edge-limiter-test-"));
    t.after(() => rmSync(dir, { recursive: true }));
    const script = `import(${JSON.stringify(module)}).then((m) => m.startRedis()).then((r) => { console.log(r.port); process.stdin.on("end", () => process.exit(3)).resume(); })`;
    const child = spawn(process.execPath, ["-e", script], { stdio: ["pipe", "pipe", "inherit"], env: { ...process.env, TMPDIR: dir } });
    const exited = once(child, "exit");
    const [line] = await once(child.stdout, "data");
    const { closed } = await watch(Number(line));
    end(child);
    await closed; // or the test never ends
    await exited;
    assert.equal(readdirSync(dir).length, directoriesLeft);
  });
}

/** Starts each example by its own command, with the packed package. */

import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readdirSync, symlinkSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { environment } from "../../scripts/command.mjs";
import { send } from "../harness/request.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { ready } from "./guides.mjs";
import { project, root, run, serve } from "./scratch.mjs";

/** Statuses of six failed logins: the application refuses five, and the limiter denies the sixth. */
const GUESSES = [401, 401, 401, 401, 401, 429];

/** Copies an example and installs its dependencies. wrangler is not copied: the repository's is used. */
async function copied(t, name) {
  const from = path.join(root, "examples", name);
  const files = Object.fromEntries(filesBelow(from).map((file) => [path.relative(from, file), readFileSync(file, "utf8")]));
  const { dependencies } = JSON.parse(files["package.json"]);
  const folder = await project(t, files, Object.keys(dependencies).filter((name) => name !== "edge-limiter"));
  if (dependencies.next) {
    mkdirSync(path.join(folder, "node_modules", ".bin"), { recursive: true });
    symlinkSync("../next/dist/bin/next", path.join(folder, "node_modules", ".bin", "next"));
  }
  return folder;
}

/** Returns the files of an example without those that running it has created. */
function filesBelow(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name);
    if (!entry.isDirectory()) return [file];
    return ["node_modules", ".next", ".wrangler"].includes(entry.name) ? [] : filesBelow(file);
  });
}

const usesWrangler = (cwd) => readFileSync(path.join(cwd, "package.json"), "utf8").includes('"wrangler"');

/** Runs `npm start` and returns a function that sends requests to the example. */
async function started(t, cwd, { args = () => [], env = {} } = {}) {
  const PATH = [path.join(root, "node_modules", ".bin"), environment.PATH].join(path.delimiter);
  const server = await serve(t, "npm", (port) => ["start", "--", ...args(port)], { cwd, env: { PATH, WRANGLER_REGISTRY_PATH: path.join(cwd, ".registry"), ...env } });
  if (usesWrangler(cwd)) await ready(server);
  return (options) => send(server.url, options);
}

const post = (path, headers) => ({ method: "POST", path, headers });

async function statuses(count, ask) {
  const seen = [];
  for (let i = 0; i < count; i++) seen.push((await ask()).status);
  return seen;
}

describe("examples", () => {
  it("worker-in-front limits requests, and its origin refuses requests that bypass the limiter", async (t) => {
    const ORIGIN_PORT = String(await freePort());
    const ask = await started(t, await copied(t, "worker-in-front"), { env: { ORIGIN_PORT } });
    const askOrigin = (options) => send(`http://127.0.0.1:${ORIGIN_PORT}`, options);
    const caller = { "CF-Connecting-IP": "192.0.2.1" };
    const hello = await ask({ path: "/api/hello", headers: caller });
    assert.deepEqual([hello.status, hello.json(), hello.headers["x-ratelimit-limit"]], [200, { hello: "192.0.2.1" }, "120"]);
    assert.deepEqual(await statuses(6, () => ask(post("/api/login", caller))), GUESSES);
    const around = await askOrigin({ path: "/api/hello", headers: { "X-Edge-Limiter-Secret": "guessed" } });
    assert.deepEqual([around.status, around.text()], [403, "Forbidden"]);
    assert.equal((await askOrigin({ path: "/api/hello" })).status, 403);
    assert.equal((await ask({ path: "/api/hello", headers: { ...caller, "X-Edge-Limiter-Secret": "guessed" } })).status, 200, "the limiter should replace a client's secret with its own");
  });

  it("next limits pages and routes", async (t) => {
    const cwd = await copied(t, "next");
    await run("npm", ["run", "build"], { cwd });
    const ask = await started(t, cwd);
    const caller = (address) => ({ "X-Forwarded-For": `198.51.100.${Math.floor(256 * Math.random())}, ${address}` });
    const page = await ask({ path: "/", headers: caller("192.0.2.1") });
    assert.deepEqual([page.status, page.headers["x-ratelimit-limit"]], [200, "60"]);
    assert.match(page.text(), /<h1>Hello<\/h1>/);
    assert.deepEqual(await statuses(6, () => ask(post("/api/login", caller("192.0.2.1")))), GUESSES);
    assert.equal((await ask(post("/api/login", caller("192.0.2.2")))).status, 401);
  });

  it("hono-worker limits every route", async (t) => {
    const ask = await started(t, await copied(t, "hono-worker"), { args: (port) => ["--port", String(port)] });
    const caller = { "CF-Connecting-IP": "192.0.2.1" };
    const hello = await ask({ path: "/", headers: caller });
    assert.deepEqual([hello.status, hello.text(), hello.headers["x-ratelimit-limit"]], [200, "Hello", "60"]);
    assert.deepEqual(await statuses(6, () => ask(post("/login", caller))), GUESSES);
  });

  it("express limits every route, and exports by their number of rows", async (t) => {
    const ask = await started(t, await copied(t, "express"));
    const hello = await ask({ path: "/", headers: { "X-Forwarded-For": "192.0.2.1" } });
    assert.deepEqual([hello.status, hello.text(), hello.headers["x-ratelimit-limit"]], [200, "Hello", "60"]);
    assert.equal((await ask({ path: "/export?rows=9000" })).status, 200);
    const further = await ask({ path: "/export?rows=2000" });
    assert.equal(further.status, 429);
    assert.ok(Number(further.headers["retry-after"]) > 3000);
    assert.equal((await ask({ path: "/export?rows=1000" })).status, 200, "the denied export should not have been counted");
    assert.deepEqual(await statuses(6, () => ask(post("/login", { "X-Forwarded-For": `192.0.2.${Math.floor(256 * Math.random())}` }))), GUESSES);
  });

  it("service-binding lets another Worker ask the limiter", async (t) => {
    const ask = await started(t, await copied(t, "service-binding"));
    const paid = [];
    for (let i = 0; i < 4; i++) {
      const { status, headers } = await ask({ path: "/?user=ada" });
      paid.push([status, headers["retry-after"]]);
    }
    assert.deepEqual(paid, [[200, undefined], [200, undefined], [200, undefined], [429, "900"]]);
    assert.equal((await ask({ path: "/?user=bob" })).status, 200);
  });
});

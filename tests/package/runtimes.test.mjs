/** The package in Node, Deno, Bun and Vercel's edge runtime. Each loads the files of its export condition. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { VARIABLES, assertCalls, assertControlPlane, assertLimits } from "./assertions.mjs";
import { bun, deno, program, project, run, serve } from "./scratch.mjs";

const APPLICATION = { "application.mjs": readFileSync(fileURLToPath(new URL("application.mjs", import.meta.url)), "utf8") };

const NODE = `
import { createServer } from "node:http";
import { rateLimit } from "edge-limiter/node";
import { application } from "./application.mjs";
const { limiter, handle } = application();
const middleware = rateLimit({ limiter });
createServer((request, response) => {
  if (request.url === "/calls") {
    handle(new Request("http://localhost/calls")).then(async (answer) => response.end(await answer.text()));
  } else {
    middleware(request, response, (error) => response.end(error ? String(error) : "hello"));
  }
}).listen(Number(process.env.PORT), "127.0.0.1");
`;

const CJS = `
const { LimiterError, createLimiter } = require("edge-limiter");
const { rateLimit } = require("edge-limiter/node");
const limiter = createLimiter({ env: { RATE_LIMIT_GENERAL: "1,600" } });
const ask = () => limiter.limit(new Request("http://localhost/"), { address: "192.0.2.1" });
(async () => console.log(typeof rateLimit(), typeof LimiterError, (await ask()).allowed, (await ask()).status))();
`;

const DENO = `
import { application } from "./application.mjs";
const { handle } = application();
Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")) }, (request, info) => handle(request, { address: info.remoteAddr.hostname }));
`;

const BUN = `
import { application } from "./application.mjs";
const { handle } = application();
Bun.serve({ hostname: "127.0.0.1", port: Number(process.env.PORT), fetch: (request, server) => handle(request, { address: server.requestIP(request).address }) });
`;

const EDGE = `
import { application } from "./application.mjs";
let current;
// The functions of \`redis\` take no event, so they need the current one.
const { handle } = application({ waitUntil: (promise) => current.waitUntil(promise) });
addEventListener("fetch", (event) => {
  current = event;
  event.respondWith(handle(event.request, { waitUntil: (promise) => event.waitUntil(promise) }));
});
`;

async function assertWorks(url, options) {
  await assertLimits(url, options);
  await assertControlPlane(url, options && { [options.header]: "192.0.2.1" });
  await assertCalls(url, options && { [options.header]: "192.0.2.1" });
}

describe("runtimes", () => {
  it("the package runs in Node as an ES module", async (t) => {
    const cwd = await project(t, { ...APPLICATION, "server.mjs": NODE });
    const { url } = await serve(t, process.execPath, () => ["server.mjs"], { cwd, env: VARIABLES });
    await assertWorks(url);
  });

  it("the package runs in Node by require", async (t) => {
    const cwd = await project(t, { "main.cjs": CJS });
    assert.match(await run(process.execPath, ["main.cjs"], { cwd }), /^function function true 429$/m);
  });

  it("the package runs in Deno with only network and environment permissions", async (t) => {
    const cwd = await project(t, { ...APPLICATION, "server.mjs": DENO });
    const args = ["run", "--no-prompt", "--no-remote", "--no-lock", "--allow-net=127.0.0.1", "--allow-env", "server.mjs"];
    const { url } = await serve(t, deno(), () => args, { cwd, env: { ...VARIABLES, DENO_DIR: path.join(cwd, ".deno") } });
    await assertWorks(url);
  });

  it("the package runs in Bun", async (t) => {
    const cwd = await project(t, { ...APPLICATION, "server.mjs": BUN });
    const { url } = await serve(t, bun(), () => ["--no-install", "server.mjs"], { cwd, env: { ...VARIABLES, NODE_ENV: "production" } });
    await assertWorks(url);
  });

  it("the package runs in Vercel's edge runtime, which refuses to compile", async (t) => {
    const cwd = await project(t, { ...APPLICATION, "main.mjs": EDGE });
    // The server waits for all background work before it ends, and flushing metrics takes 15 s.
    const env = { ...VARIABLES, VERCEL: "1", RATE_LIMIT_METRICS: "false" };
    const runtime = await edgeRuntime(t, path.join(cwd, "main.mjs"), env);
    assert.match(await runtime.evaluate("try { String(new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]))) } catch (error) { error.message }"), /disallowed/);
    await assertWorks(runtime.url, { header: "X-Real-IP" });
  });
});

/**
 * Bundles and serves a program as Vercel does. An import with `?module` becomes a module that the platform has compiled, and the runtime
 * refuses code that would compile.
 */
async function edgeRuntime(t, entry, env) {
  const { EdgeRuntime, runServer } = createRequire(program("edge-runtime"))("edge-runtime");
  const modules = {};
  const plugin = {
    name: "?module",
    setup(builder) {
      builder.onResolve({ filter: /\.wasm\?module$/ }, (args) => ({ path: path.join(args.resolveDir, args.path.replace("?module", "")), namespace: "module" }));
      builder.onLoad({ filter: /./, namespace: "module" }, (args) => {
        const bytes = readFileSync(args.path);
        const name = `wasm_${createHash("sha1").update(bytes).digest("hex")}`;
        modules[name] = new WebAssembly.Module(bytes);
        return { contents: `export default globalThis.${name}` };
      });
    },
  };
  // In applications of Next.js, `next/server.js` exists. This application does not have it.
  const { outputFiles, metafile } = await build({
    entryPoints: [entry], bundle: true, write: false, metafile: true, format: "iife", target: "es2022", conditions: ["edge-light"], plugins: [plugin], logLevel: "error",
  });
  assert.ok(Object.keys(metafile.inputs).some((file) => file.includes("dist/edge-light/")), "the bundle should contain the files of the edge-light condition");
  const extend = (context) => Object.assign(context, modules, { process: { env } });
  const runtime = new EdgeRuntime({ codeGeneration: { strings: false, wasm: false }, extend, initialCode: outputFiles[0].text });
  const server = await runServer({ runtime, host: "127.0.0.1", port: 0 });
  t.after(() => server.close());
  return { url: server.url.replace(/\/$/, ""), evaluate: (code) => runtime.evaluate(code) };
}

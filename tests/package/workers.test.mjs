/** The package in Workers that wrangler bundles and runs with its default settings. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { send } from "../harness/request.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { VARIABLES, assertCalls, assertControlPlane, assertLimits } from "./assertions.mjs";
import { project, root, run, serve, wrangler } from "./scratch.mjs";

const APPLICATION = { "src/application.mjs": readFileSync(fileURLToPath(new URL("application.mjs", import.meta.url)), "utf8") };
const [, COMPATIBILITY_DATE] = /^compatibility_date = "(.*)"$/m.exec(readFileSync(path.join(root, "wrangler.toml"), "utf8"));
/** Cloudflare names the caller in this header. */
const CALLER = { header: "CF-Connecting-IP" };

const HANDLER = `
import { application } from "./application.mjs";
const { handle } = application();
export default { fetch: (request) => handle(request) };
`;

const HONO = `
import { Hono } from "hono";
import { rateLimit } from "edge-limiter/hono";
const app = new Hono();
app.use(rateLimit());
app.get("/", (context) => context.text("hello"));
export default app;
`;

const WORKER = `export { default } from "edge-limiter/worker";\n`;

/** Serves a Worker with `wrangler dev`. */
async function worker(t, files, packages, vars = {}) {
  const names = Object.entries({ ...VARIABLES, ...vars }).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
  const config = [`name = "scratch"`, `main = "src/index.js"`, `compatibility_date = "${COMPATIBILITY_DATE}"`, "[vars]", ...names, ""];
  const cwd = await project(t, { "wrangler.toml": config.join("\n"), ...files }, packages);
  const { url, printed } = await serve(t, process.execPath, (port) => [wrangler, "dev", "--ip", "127.0.0.1", "--port", String(port), "--inspector-port", "0"], { cwd });
  return { cwd, url, printed };
}

describe("the package in a Worker", () => {
  it("a Worker's own fetch handler can use the package", async (t) => {
    const { url } = await worker(t, { ...APPLICATION, "src/index.js": HANDLER });
    await assertLimits(url, CALLER);
    await assertControlPlane(url);
    await assertCalls(url);
  });

  it("a Hono application can use the package", async (t) => {
    const { url } = await worker(t, { "src/index.js": HONO }, ["hono"]);
    await assertLimits(url, CALLER);
    await assertControlPlane(url);
  });

  it("edge-limiter/worker is a whole Worker in front of an origin", async (t) => {
    const origin = await startOrigin((request, response) => response.end(`origin ${request.url} ${request.headers["x-edge-limiter-ip"]}`));
    t.after(() => origin.stop());
    const { cwd, url } = await worker(t, { "src/index.js": WORKER }, [], { ORIGIN_URL: origin.url });
    await assertLimits(url, { ...CALLER, path: "/shop?a=1", answer: "origin /shop?a=1 192.0.2.1" });
    await assertControlPlane(url);
    assert.equal((await send(url, { headers: { "CF-Connecting-IP": "192.0.2.9" } })).text(), "origin / 192.0.2.9");
    // The upload has the Wasm once, as a separate file.
    const printed = await run(process.execPath, [wrangler, "deploy", "--dry-run", "--outdir", "out"], { cwd });
    const [, kib] = /gzip: ([\d.]+) KiB/.exec(printed);
    t.diagnostic(`upload: ${kib} KiB gzipped`);
    assert.ok(Number(kib) < 500, printed);
  });
});

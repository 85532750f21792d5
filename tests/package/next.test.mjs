/**
 * The package in Next.js, built and started without a network: `proxy.ts` on Node, `middleware.ts` on the edge runtime. The files come
 * unchanged from docs/vercel.md.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { VARIABLES, assertControlPlane, assertLimits, forged } from "./assertions.mjs";
import { program, project, root, run, serve } from "./scratch.mjs";

const GUIDE = readFileSync(path.join(root, "docs", "vercel.md"), "utf8");
/** Returns the code block of the guide whose first line names this file and which contains `text`. */
function fromGuide(name, text) {
  const blocks = [...GUIDE.matchAll(/^```tsx?\n([^]*?)^```$/gm)].map(([, block]) => block);
  const found = blocks.filter((block) => block.startsWith(`// ${name}`) && block.includes(text));
  assert.equal(found.length, 1, `docs/vercel.md should have one block ${name} that contains ${text}`);
  return found[0];
}

const APPLICATION = {
  "app/layout.tsx": 'export default function Layout({ children }: { children: React.ReactNode }) {\n  return <html lang="en"><body>{children}</body></html>;\n}\n',
  "app/page.tsx": "export default function Page() {\n  return <p>a page</p>;\n}\n",
  "app/api/hello/route.ts": 'export const dynamic = "force-dynamic";\nexport const GET = () => new Response("hello");\n',
};
const MIDDLEWARE = 'import { rateLimit } from "edge-limiter/next";\nexport const middleware = rateLimit();\n';
const PACKAGES = ["next", "react", "react-dom", "typescript", "@types/node", "@types/react"];
const HELLO = { path: "/api/hello" };

/** Spellings of `/api/hello` that a client may send. Next.js answers some with the route, and none of these may bypass the matcher. */
const SPELLINGS = [
  "/api/hello?x", "/./api/hello", "/x/../api/hello", "/%61pi/hello", "/api/%68ello", "//api/hello", "/api//hello", "/api\\hello", "/api/hello/", "/API/hello", "/api/hello;x", "/api/hello.rsc",
  "/_next/../api/hello", "/_next/data/x/api/hello.json", "/en/api/hello", "/api/hello%2f", "/api%2fhello",
];
/** Headers that parts of Next.js send to each other. */
const NEXT_HEADERS = [
  { "X-Middleware-Subrequest": "proxy:proxy:proxy:proxy:proxy" }, { "X-Middleware-Subrequest": "src/proxy:src/proxy:src/proxy:src/proxy:src/proxy" }, { "X-Middleware-Next": "1" },
  { "X-Middleware-Prefetch": "1" }, { "X-Middleware-Rewrite": "/" }, { "X-Nextjs-Data": "1" }, { "X-Invoke-Path": "/" }, { "X-Matched-Path": "/" }, { Purpose: "prefetch" },
];

/** Plays the platform: Vercel keeps background work alive, and sets `VERCEL` and `x-real-ip`. Next.js alone does not. */
const PLATFORM = 'globalThis[Symbol.for("@vercel/request-context")] = { get: () => ({ waitUntil: (promise) => void promise.catch(console.error) }) };\n';
const ON_VERCEL = { VERCEL: "1", NODE_OPTIONS: "--import=./platform.mjs" };
const REAL_IP = { header: "X-Real-IP" };

const next = program("next", "dist", "bin", "next");

async function built(t, files, { webpack = false } = {}) {
  const cwd = await project(t, { "platform.mjs": PLATFORM, ...APPLICATION, ...files }, PACKAGES);
  const printed = await run(process.execPath, [ownNext(cwd), "build", ...(webpack ? ["--webpack"] : [])], { cwd });
  assert.doesNotMatch(printed, /not supported in the Edge Runtime|Dynamic Code Evaluation|Module not found/i);
  return cwd;
}

/** The project's own copy of Next.js, which an application's script would start. */
const ownNext = (cwd) => path.join(cwd, "node_modules", path.relative(program(), next));
const started = (t, cwd, env) => serve(t, process.execPath, (port) => [ownNext(cwd), "start", "-H", "127.0.0.1", "-p", String(port)], { cwd, env: { ...VARIABLES, ...env } });

describe("the package in Next.js", () => {
  it("the guide's proxy.ts limits its paths on Node, and the guide's route checks a cost that only it knows", async (t) => {
    const cwd = await built(t, {
      "proxy.ts": fromGuide("proxy.ts", "export const config"),
      "app/api/export/route.ts": fromGuide("app/api/export/route.ts", "createLimiter"),
    });
    const { url } = await started(t, cwd, { ...ON_VERCEL, RATE_LIMIT_EXPORT: "15,600" });
    await assertLimits(url, { ...HELLO, ...REAL_IP });
    await assertControlPlane(url, { "X-Real-IP": "192.0.2.3" });
    for (let i = 0; i < 5; i += 1) assert.equal((await send(url, { headers: { "X-Real-IP": "192.0.2.1" } })).status, 200, "the matcher should leave out a page");
    const exported = await send(url, { path: "/api/export", method: "POST", headers: { "X-Real-IP": "192.0.2.4" } });
    assert.deepEqual([exported.status, exported.text()], [200, "exported"]);
    const refused = await send(url, { path: "/api/export", method: "POST", headers: { "X-Real-IP": "192.0.2.5" } });
    assert.deepEqual([refused.status, refused.text()], [429, "Too many exports"]);
    assert.match(refused.headers["retry-after"], /^\d+$/);

    // Each request comes from another caller, so that none is denied.
    for (const [index, spelling] of SPELLINGS.entries()) {
      const answer = await send(url, { path: spelling, headers: { "X-Real-IP": `192.0.2.${100 + index}` } });
      if (answer.text() === "hello") assert.equal(answer.headers["x-ratelimit-remaining"], "2", `${spelling} should be counted`);
    }
    for (const given of NEXT_HEADERS) {
      const answer = await send(url, { ...HELLO, headers: { "X-Real-IP": "192.0.2.1", ...given } });
      assert.equal(answer.status, 429, JSON.stringify(given));
    }

    await t.test("a request fails without a platform that names the caller, whatever headers the client sends", async (t) => {
      const withoutPlatform = await started(t, cwd, {});
      const answer = await send(withoutPlatform.url, { ...HELLO, headers: forged() });
      assert.equal(answer.status, 500);
      assert.match(withoutPlatform.printed(), /no_address|Nothing says who the caller is/);
      assert.match(withoutPlatform.printed(), /CLIENT_IP_HEADER/);
    });
  });

  it("middleware.ts built by Turbopack runs on the edge runtime, also with trailingSlash", async (t) => {
    const cwd = await built(t, { "middleware.ts": MIDDLEWARE, "next.config.mjs": "export default { trailingSlash: true, skipTrailingSlashRedirect: true };\n" });
    const { url } = await started(t, cwd, ON_VERCEL);
    await assertLimits(url, { ...HELLO, ...REAL_IP });
    await assertControlPlane(url, { "X-Real-IP": "192.0.2.3" });
  });

  it("middleware.ts built by webpack runs on the edge runtime", async (t) => {
    const cwd = await built(t, { "middleware.ts": MIDDLEWARE }, { webpack: true });
    const { url } = await started(t, cwd, ON_VERCEL);
    await assertLimits(url, { ...HELLO, ...REAL_IP });
    await assertControlPlane(url, { "X-Real-IP": "192.0.2.3" });
  });

  it("the guide's proxy.ts answers 403 to requests without the secret and admits the Worker's requests", async (t) => {
    const cwd = await built(t, { "from-worker.ts": fromGuide("from-worker.ts", "ORIGIN_SECRET"), "proxy.ts": fromGuide("proxy.ts", "proxy(request: NextRequest) {") });
    const ORIGIN_SECRET = "an-origin-secret-of-this-test-alone";
    const deployment = await started(t, cwd, { ORIGIN_SECRET });
    const worker = await startWorkerd({ vars: { ...VARIABLES, ORIGIN_URL: deployment.url, ORIGIN_SECRET } });
    t.after(() => worker.stop());
    for (const target of ["/", "/api/hello", "/_next/static/none.js", "/_limiter/health"]) {
      for (const given of [{}, { "X-Edge-Limiter-Secret": "" }, { "X-Edge-Limiter-Secret": "another-secret-of-equal-length-here" }, { "X-Edge-Limiter-Secret": `${ORIGIN_SECRET}.` }]) {
        assert.equal((await send(deployment.url, { path: target, headers: given })).status, 403, `${target} ${JSON.stringify(given)}`);
      }
    }
    const through = (address) => send(worker.url, { ...HELLO, headers: { "CF-Connecting-IP": address } });
    const answer = await through("192.0.2.1");
    assert.deepEqual([answer.status, answer.text(), answer.headers["x-ratelimit-remaining"]], [200, "hello", "2"]);
    for (let i = 0; i < 2; i += 1) await through("192.0.2.1");
    assert.equal((await through("192.0.2.1")).status, 429);

    await t.test("a deployment without ORIGIN_SECRET refuses every request", async (t) => {
      const withoutSecret = await started(t, cwd, {});
      for (const given of [{}, { "X-Edge-Limiter-Secret": "" }]) assert.equal((await send(withoutSecret.url, { ...HELLO, headers: given })).status, 403);
    });
  });

  it("the guide's limiter behind a Worker charges the caller that the Worker names", async (t) => {
    const cwd = await built(t, { "from-worker.ts": fromGuide("from-worker.ts", "ORIGIN_SECRET"), "proxy.ts": fromGuide("proxy.ts", "limited(request, event)") });
    const ORIGIN_SECRET = "an-origin-secret-of-this-test-alone";
    const deployment = await started(t, cwd, { ...ON_VERCEL, ORIGIN_SECRET, CLIENT_IP_HEADER: "x-edge-limiter-ip" });
    const worker = await startWorkerd({ vars: { ORIGIN_URL: deployment.url, ORIGIN_SECRET, RATE_LIMIT_ENABLED: false } });
    t.after(() => worker.stop());
    const through = async (address) => (await send(worker.url, { ...HELLO, headers: { "CF-Connecting-IP": address, "X-Edge-Limiter-IP": "192.0.2.9" } })).status;
    const around = async (address) => (await send(deployment.url, { ...HELLO, headers: { "X-Edge-Limiter-IP": address } })).status;
    for (let i = 0; i < 5; i += 1) assert.equal(await around("192.0.2.2"), 403);
    const statuses = [];
    for (let i = 0; i < 4; i += 1) statuses.push(await through("192.0.2.1"));
    assert.deepEqual(statuses, [200, 200, 200, 429]);
    assert.equal(await through("192.0.2.2"), 200, "requests around the Worker should not have charged this caller");
    assert.equal(await through("192.0.2.9"), 200);
  });
});

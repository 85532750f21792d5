/** The package in Next.js, built and started without a network: `proxy.ts` on Node, `middleware.ts` on edge, and the files of docs/vercel.md as they are there. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { VARIABLES, forged, limits, operates } from "./conversation.mjs";
import { program, project, root, run, serve } from "./scratch.mjs";

const GUIDE = readFileSync(path.join(root, "docs", "vercel.md"), "utf8");
/** The guide's file that is named in its first line; where there are several of a name, the one that contains `text`. */
function ofGuide(name, text) {
  const blocks = [...GUIDE.matchAll(/^```tsx?\n([^]*?)^```$/gm)].map(([, block]) => block);
  const found = blocks.filter((block) => block.startsWith(`// ${name}`) && block.includes(text));
  assert.equal(found.length, 1, `${name} with ${text}`);
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

/** What a client may write in place of `/api/hello`. Next.js answers some with the route: none of them goes around the matcher. */
const SPELLINGS = [
  "/api/hello?x", "/./api/hello", "/x/../api/hello", "/%61pi/hello", "/api/%68ello", "//api/hello", "/api//hello", "/api\\hello", "/api/hello/", "/API/hello", "/api/hello;x", "/api/hello.rsc",
  "/_next/../api/hello", "/_next/data/x/api/hello.json", "/en/api/hello", "/api/hello%2f", "/api%2fhello",
];
/** Headers by which parts of Next.js speak to each other. */
const OF_NEXT = [
  { "X-Middleware-Subrequest": "proxy:proxy:proxy:proxy:proxy" }, { "X-Middleware-Subrequest": "src/proxy:src/proxy:src/proxy:src/proxy:src/proxy" }, { "X-Middleware-Next": "1" },
  { "X-Middleware-Prefetch": "1" }, { "X-Middleware-Rewrite": "/" }, { "X-Nextjs-Data": "1" }, { "X-Invoke-Path": "/" }, { "X-Matched-Path": "/" }, { Purpose: "prefetch" },
];

/** What Vercel does around an application that this machine's Next.js does not: it sets `VERCEL` and `x-real-ip`, and keeps background work alive. */
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

/** The project's own copy, as an application's script would start it. */
const ownNext = (cwd) => path.join(cwd, "node_modules", path.relative(program(), next));
const started = (t, cwd, env) => serve(t, process.execPath, (port) => [ownNext(cwd), "start", "-H", "127.0.0.1", "-p", String(port)], { cwd, env: { ...VARIABLES, ...env } });

describe("in Next.js", () => {
  it("proxy.ts runs on Node: the guide's limits the paths that it names, and a route checks what only it knows", async (t) => {
    const cwd = await built(t, {
      "proxy.ts": ofGuide("proxy.ts", "export const config"),
      "app/api/export/route.ts": ofGuide("app/api/export/route.ts", "createLimiter"),
    });
    const { url } = await started(t, cwd, { ...ON_VERCEL, RATE_LIMIT_EXPORT: "15,600" });
    await limits(url, { ...HELLO, ...REAL_IP });
    await operates(url, { "X-Real-IP": "192.0.2.3" });
    for (let i = 0; i < 5; i += 1) assert.equal((await send(url, { headers: { "X-Real-IP": "192.0.2.1" } })).status, 200, "a page, which the matcher leaves out");
    const exported = await send(url, { path: "/api/export", method: "POST", headers: { "X-Real-IP": "192.0.2.4" } });
    assert.deepEqual([exported.status, exported.text()], [200, "exported"]);
    const refused = await send(url, { path: "/api/export", method: "POST", headers: { "X-Real-IP": "192.0.2.5" } });
    assert.deepEqual([refused.status, refused.text()], [429, "Too many exports"]);
    assert.match(refused.headers["retry-after"], /^\d+$/);

    // Each from another caller, so that none is denied.
    for (const [index, spelling] of SPELLINGS.entries()) {
      const answer = await send(url, { path: spelling, headers: { "X-Real-IP": `192.0.2.${100 + index}` } });
      if (answer.text() === "hello") assert.equal(answer.headers["x-ratelimit-remaining"], "2", `${spelling} is counted`);
    }
    for (const given of OF_NEXT) {
      const answer = await send(url, { ...HELLO, headers: { "X-Real-IP": "192.0.2.1", ...given } });
      assert.equal(answer.status, 429, JSON.stringify(given));
    }

    await t.test("without a platform that says who the caller is, no header of a client's does", async (t) => {
      const alone = await started(t, cwd, {});
      const answer = await send(alone.url, { ...HELLO, headers: forged() });
      assert.equal(answer.status, 500);
      assert.match(alone.printed(), /no_address|Nothing says who the caller is/);
      assert.match(alone.printed(), /CLIENT_IP_HEADER/);
    });
  });

  it("middleware.ts runs on edge, built by Turbopack, and the control plane with it where paths end in a slash", async (t) => {
    const cwd = await built(t, { "middleware.ts": MIDDLEWARE, "next.config.mjs": "export default { trailingSlash: true, skipTrailingSlashRedirect: true };\n" });
    const { url } = await started(t, cwd, ON_VERCEL);
    await limits(url, { ...HELLO, ...REAL_IP });
    await operates(url, { "X-Real-IP": "192.0.2.3" });
  });

  it("middleware.ts runs on edge, built by webpack", async (t) => {
    const cwd = await built(t, { "middleware.ts": MIDDLEWARE }, { webpack: true });
    const { url } = await started(t, cwd, ON_VERCEL);
    await limits(url, { ...HELLO, ...REAL_IP });
    await operates(url, { "X-Real-IP": "192.0.2.3" });
  });

  it("the guide's proxy.ts closes the deployment's own address: 403 without the secret, and the Worker's requests pass", async (t) => {
    const cwd = await built(t, { "from-worker.ts": ofGuide("from-worker.ts", "ORIGIN_SECRET"), "proxy.ts": ofGuide("proxy.ts", "proxy(request: NextRequest) {") });
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

    await t.test("a deployment without the secret refuses everything", async (t) => {
      const open = await started(t, cwd, {});
      for (const given of [{}, { "X-Edge-Limiter-Secret": "" }]) assert.equal((await send(open.url, { ...HELLO, headers: given })).status, 403);
    });
  });

  it("the guide's limiter behind a Worker takes the address of whom the Worker names, and of nobody else", async (t) => {
    const cwd = await built(t, { "from-worker.ts": ofGuide("from-worker.ts", "ORIGIN_SECRET"), "proxy.ts": ofGuide("proxy.ts", "limited(request, event)") });
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
    assert.equal(await through("192.0.2.2"), 200, "whom somebody else has named");
    assert.equal(await through("192.0.2.9"), 200);
  });
});

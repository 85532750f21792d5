/** Compiles programs against the package's types with strict compiler options. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { program, project, run } from "./scratch.mjs";

const TSC = program("typescript", "bin", "tsc");
const STRICT = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"];

const CORE = `
import { LimiterError, createLimiter, type ErrorCode, type Limiter, type Verdict } from "edge-limiter";
import { rateLimit as node } from "edge-limiter/node";
import { createServer } from "node:http";

const limiter: Limiter = createLimiter({ env: { RATE_LIMIT_GENERAL: "3,60" }, trustProxy: 1, waitUntil: (promise) => void promise });

export async function handle(request: Request): Promise<Response> {
  const verdict: Verdict = await limiter.limit(request, { address: "192.0.2.1" });
  if (!verdict.allowed) return verdict.response ?? new Response(null, { status: verdict.status });
  const seconds: number | undefined = verdict.retryAfter;
  return verdict.decorate(new Response(String(seconds), { headers: verdict.headers }));
}

export async function calls(): Promise<ErrorCode | undefined> {
  try {
    const { remaining }: { remaining: number } = await limiter.check("auth", "user:1", { cost: 2 });
    const until: number | undefined = (await limiter.usage("auth", "user:1")).blockedUntil;
    await limiter.redis.set("key", remaining + (until ?? 0), { ex: 60 });
    const value: string | null = await limiter.redis.get("key");
    const [first] = await limiter.redis.getBlockedIPs();
    await limiter.redis.logRateLimitEvent({ identifier: value ?? "nobody", policy: "auth" });
    await limiter.redis.blockIP(first?.ip ?? "192.0.2.1", 60);
    return undefined;
  } catch (error) {
    if (error instanceof LimiterError) return error.code;
    throw error;
  }
}

const middleware = node({ limiter });
createServer((request, response) => middleware(request, response, (error) => response.end(String(error))));
`;

/** A program with every client that `createLimiter` accepts. */
const CLIENTS = `
import { createLimiter } from "edge-limiter";
import { Redis as Upstash } from "@upstash/redis";
import { Cluster, Redis } from "ioredis";
import { Cluster as Cluster5, Redis as Redis5 } from "ioredis-5";
import { createClient, createClientPool, createCluster, createSentinel } from "redis";
import { createClient as createClient5, createCluster as createCluster5 } from "redis-5";

const rootNodes = [{ host: "localhost", port: 1 }];
for (const redis of [new Redis(), new Redis5(), new Cluster(rootNodes), new Cluster5(rootNodes)]) createLimiter({ redis });
createLimiter({ redis: createClient() });
createLimiter({ redis: createClient5() });
createLimiter({ redis: createClientPool() });
createLimiter({ redis: createCluster({ rootNodes: [] }) });
createLimiter({ redis: createCluster5({ rootNodes: [] }) });
createLimiter({ redis: createSentinel({ name: "m", sentinelRootNodes: [] }) });
createLimiter({ redis: new Upstash({ url: "https://localhost", token: "t" }) });
// @ts-expect-error a URL is not a client
createLimiter({ redis: "redis://localhost" });
// @ts-expect-error a map is not a client
createLimiter({ redis: new Map<string, string>() });
`;

/** Lines that the compiler has to refuse. A type that is too wide, such as `any`, would accept them. */
const WRONG = [
  'createLimiter({ trustProxies: 1 });',
  'limiter.check("auth");',
  'limiter.check("auth", "user:1", { cost: "1" });',
  'limiter.redis.set("key", { an: "object" });',
  'const reset: string = verdict.reset;',
  'verdict.allowed = true;',
  'const code: ErrorCode = "no_such_code";',
];

const FRAMEWORKS = `
import worker from "edge-limiter/worker";
import { rateLimit as hono } from "edge-limiter/hono";
import { rateLimit as next } from "edge-limiter/next";
import { rateLimit as node } from "edge-limiter/node";
import express from "express";
import { Hono } from "hono";
import { getConnInfo } from "hono/deno";
import { NextResponse, type NextRequest } from "next/server.js";

export default worker;
express().use(node({ trustProxy: 1 })).use("/api", node());
new Hono<{ Bindings: { KEY: string } }>().use(hono()).use("/api/*", hono({ address: (c) => getConnInfo(c).remote.address })).get("/", (c) => c.text("hello"));
export const proxy = next({}, (request: NextRequest) => NextResponse.rewrite(new URL("/other", request.url)));
export const middleware = next({ env: process.env }, async () => undefined);
`;

const MODULES = [["nodenext", "nodenext"], ["esnext", "bundler"]];

describe("the package's types", () => {
  it("createLimiter accepts every Redis client that the limiter supports", async (t) => {
    const cwd = await project(t, { "clients.ts": CLIENTS }, ["@types/node", "@upstash/redis", "ioredis", "ioredis-5", "redis", "redis-5"]);
    await run(process.execPath, [TSC, ...STRICT, "--skipLibCheck", "--module", "nodenext", "--moduleResolution", "nodenext", "--types", "node", "clients.ts"], { cwd });
  });

  it("a strict program without a framework compiles, with every declaration checked", async (t) => {
    const cwd = await project(t, { "consumer.ts": CORE }, ["@types/node"]);
    for (const [module, resolution] of MODULES) {
      await run(process.execPath, [TSC, ...STRICT, "--module", module, "--moduleResolution", resolution, "--types", "node", "consumer.ts"], { cwd });
    }
  });

  it("the compiler refuses wrong uses of the package", async (t) => {
    const files = WRONG.map((line, index) => [`wrong${index}.ts`, `${CORE}\ndeclare const verdict: Verdict;\nexport async function wrong() {\n  ${line}\n}\n`]);
    const cwd = await project(t, Object.fromEntries(files), ["@types/node"]);
    const args = [TSC, ...STRICT, "--module", "nodenext", "--types", "node", "--pretty", "false", ...files.map(([name]) => name)];
    const found = await run(process.execPath, args, { cwd, fails: true });
    for (const [index, line] of WRONG.entries()) assert.match(found, new RegExp(`^wrong${index}\\.ts\\(\\d+,\\d+\\): error`, "m"), `${line}\n${found}`);
  });

  it("a strict program with Next.js, Express and Hono compiles", async (t) => {
    const cwd = await project(t, { "consumer.ts": FRAMEWORKS }, ["@types/node", "@types/react", "@types/express", "express", "hono", "next", "react", "react-dom"]);
    for (const [module, resolution] of MODULES) {
      // The frameworks' own declarations are not checked.
      await run(process.execPath, [TSC, ...STRICT, "--skipLibCheck", "--module", module, "--moduleResolution", resolution, "--types", "node", "consumer.ts"], { cwd });
    }
  });
});

/** The package's API, tested in this process with the memory store. `redis.test.mjs` and `shared.test.mjs` use a Redis. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { isRead } from "../../npm/src/variables.js";
import { LimiterError, createLimiter, rejects, variables } from "./harness.mjs";

const ADDRESS = "192.0.2.7";
const from = (path = "/", init = {}) => new Request(`https://shop.example${path}`, init);
const limiterOf = (vars, options = {}) => createLimiter({ env: variables(vars), ...options });

describe("limit", () => {
  it("requests up to the limit are admitted, and further ones get the Worker's denial", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "2,60" });
    for (const remaining of [1, 0]) {
      const verdict = await limiter.limit(from(), { address: ADDRESS });
      const { allowed, policy, limit, status, response, blocked, degraded, exempt, retryAfter } = verdict;
      assert.deepEqual({ allowed, policy, limit, remaining: verdict.remaining, status, response, blocked, degraded, exempt, retryAfter }, {
        allowed: true, policy: "general", limit: 2, remaining, status: 200, response: undefined, blocked: false, degraded: false, exempt: undefined, retryAfter: undefined,
      });
      assert.ok(verdict.reset > Date.now() && verdict.reset <= Date.now() + 61_000, `${verdict.reset}`);
      assert.equal(verdict.headers["X-RateLimit-Remaining"], String(remaining));
    }
    const verdict = await limiter.limit(from(), { address: ADDRESS });
    assert.equal(verdict.allowed, false);
    assert.ok(verdict.retryAfter >= 59 && verdict.retryAfter <= 61, `${verdict.retryAfter}`);
    const { response } = verdict;
    assert.equal(response.status, 429);
    assert.equal(response.headers.get("retry-after"), String(verdict.retryAfter));
    assert.equal(response.headers.get("cache-control"), "no-store");
    const body = await response.json();
    assert.deepEqual([body.error, body.type, body.limit, body.remaining, body.blocked], ["Too many requests", "general", 2, 0, false]);
    // Each read of `response` returns a new one.
    assert.equal((await verdict.response.json()).type, "general");
    assert.equal((await limiter.limit(from(), { address: "192.0.2.8" })).allowed, true, "another caller should be admitted");
  });

  it("routes match in every spelling of a path and charge their cost, as in the Worker", async () => {
    const limiter = limiterOf({ RATE_LIMIT_AUTH: "5,60,600", RATE_LIMIT_ROUTES: '[{"path":"/login","policies":["auth"],"cost":3},{"path":"/free","policies":[]}]' });
    assert.equal((await limiter.limit(from("//LOGIN/"), { address: ADDRESS })).remaining, 2);
    const denied = await limiter.limit(from("/%6Cogin"), { address: ADDRESS });
    assert.deepEqual([denied.allowed, denied.policy, denied.blocked, denied.retryAfter], [false, "auth", true, 600]);
    const free = await limiter.limit(from("/free"), { address: ADDRESS });
    assert.deepEqual([free.allowed, free.policy, free.limit], [true, undefined, undefined]);
  });

  it("limit answers requests to the control plane and its page", async () => {
    const limiter = limiterOf({ ADMIN_TOKEN: "an-admin-token-of-this-test" });
    const health = await limiter.limit(from("/_limiter/health"), { address: ADDRESS });
    assert.equal(health.allowed, false);
    assert.equal((await health.response.json()).store, "memory");
    assert.equal((await limiter.limit(from("//_limiter/health"), { address: ADDRESS })).response.status, 404);
    const page = await limiter.limit(from("/_limiter/"), { address: ADDRESS });
    assert.match(page.response.headers.get("content-type"), /^text\/html/);
    assert.match(await page.response.text(), /<!doctype html>/i);
    const etag = page.response.headers.get("etag");
    const known = await limiter.limit(from("/_limiter/", { headers: { "If-None-Match": etag } }), { address: ADDRESS });
    assert.deepEqual([known.response.status, await known.response.text()], [304, ""]);
  });

  it("the verdict reports exempt callers, and every caller is exempt while the limiter is disabled", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "1,60", RATE_LIMIT_ALLOWLIST: ADDRESS });
    for (let i = 0; i < 3; i += 1) {
      const { allowed, exempt } = await limiter.limit(from(), { address: ADDRESS });
      assert.deepEqual([allowed, exempt], [true, "allowlist"]);
    }
    const off = limiterOf({ RATE_LIMIT_GENERAL: "1,60", RATE_LIMIT_ENABLED: "false" });
    for (let i = 0; i < 3; i += 1) assert.equal((await off.limit(from(), { address: ADDRESS })).exempt, "disabled");
  });

  it("decorate sets the headers that a Worker in front would set", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "9,60" });
    const verdict = await limiter.limit(from(), { address: ADDRESS });
    const own = { "X-RateLimit-Limit": "7", "RateLimit": "x", "X-Own": "1", "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "X-Own" };
    const decorated = verdict.decorate(new Response("body", { status: 201, headers: own }));
    assert.deepEqual([decorated.status, await decorated.text()], [201, "body"]);
    assert.equal(decorated.headers.get("x-ratelimit-limit"), "9");
    assert.equal(decorated.headers.get("ratelimit"), null);
    assert.equal(decorated.headers.get("x-own"), "1");
    assert.match(decorated.headers.get("access-control-expose-headers"), /^X-Own, X-RateLimit-Limit, .*Retry-After$/);
    for (const status of [429, 503]) {
      const refusal = verdict.decorate(new Response("", { status, headers: { "X-RateLimit-Limit": "7", "Retry-After": "3" } }));
      assert.deepEqual([refusal.headers.get("x-ratelimit-limit"), refusal.headers.get("x-ratelimit-remaining")], ["7", null]);
    }
  });

  it("limiters share counts if and only if their configurations are equal", async () => {
    const env = variables({ RATE_LIMIT_GENERAL: "1,60" });
    const [one, equal, other] = [createLimiter({ env }), createLimiter({ env: { ...env } }), limiterOf({ RATE_LIMIT_GENERAL: "1,60" })];
    assert.equal((await one.limit(from(), { address: ADDRESS })).allowed, true);
    assert.equal((await equal.limit(from(), { address: ADDRESS })).allowed, false);
    assert.equal((await other.limit(from(), { address: ADDRESS })).allowed, true);
    assert.equal((await one.limit(from(), { address: ADDRESS })).allowed, false, "the count should survive the use of another limiter");
  });

  it("twelve limiters that take turns keep their counts", async () => {
    const limiters = Array.from({ length: 12 }, () => limiterOf({ RATE_LIMIT_GENERAL: "2,60" }));
    for (const allowed of [true, true, false]) {
      for (const limiter of limiters) assert.equal((await limiter.limit(from(), { address: ADDRESS })).allowed, allowed);
    }
  });

  it("the 101st limiter of a process is refused, and the first hundred keep their counts", () => {
    // In a separate process, because the limiters of this file count too.
    const script = `
      import { createLimiter } from ${JSON.stringify(new URL("../../dist/package/dist/default/index.js", import.meta.url).href)};
      const of = (i) => createLimiter({ env: { RATE_LIMIT_GENERAL: "1,60", RATE_LIMIT_IP: "off", REDIS_KEY_PREFIX: "p" + i + ":" } });
      const limit = (limiter) => limiter.limit(new Request("http://localhost/"), { address: "192.0.2.1" });
      const limiters = Array.from({ length: 100 }, (_, i) => of(i));
      const statuses = [];
      for (const turn of [1, 2]) for (const limiter of limiters) statuses.push((await limit(limiter)).status);
      statuses.push(await limit(of(100)).catch(({ code }) => code), (await limit(limiters[0])).status, (await limit(of(0))).status);
      console.log(JSON.stringify(statuses));`;
    const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "--eval", script], { encoding: "utf8" });
    assert.deepEqual(JSON.parse(stdout || stderr), [...Array(100).fill(200), ...Array(100).fill(429), "refused", 429, 429]);
  });

  it("requests after a trap are decided by a fresh instance", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "9,60" });
    const broken = { method: "GET", url: "http://localhost/", headers: { get: (name) => { if (name === "accept" || name === "authorization" || name === "x-ratelimit-bypass") throw new Error("broken"); return null; }, keys: () => [] } };
    const off = limiterOf({ RATE_LIMIT_GENERAL: "1,60,600", RATE_LIMIT_BYPASS_TOKEN: "a-bypass-token-of-this-test" });
    await assert.rejects(off.limit(broken, { address: ADDRESS }), /broken/);
    assert.equal((await limiter.limit(from(), { address: ADDRESS })).allowed, true);
    assert.equal((await off.limit(from(), { address: ADDRESS })).allowed, true);
    assert.equal((await off.limit(from(), { address: ADDRESS })).allowed, false);
  });

  it("the limit holds exactly for 400 concurrent requests", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "100,60" });
    const verdicts = await Promise.all(Array.from({ length: 400 }, () => limiter.limit(from(), { address: ADDRESS })));
    assert.equal(verdicts.filter(({ allowed }) => allowed).length, 100);
  });
});

describe("check, usage, reset, health", () => {
  it("check charges a policy by name, and usage and reset find the same caller", async () => {
    const limiter = limiterOf({ RATE_LIMIT_EXPORTS: "5,60" });
    const first = await limiter.check("exports", "user:ann", { cost: 4 });
    assert.deepEqual([first.allowed, first.policy, first.limit, first.remaining, first.retryAfter, first.shadow], [true, "exports", 5, 1, undefined, false]);
    const denied = await limiter.check("exports", "user:ann", { cost: 2 });
    assert.equal(denied.allowed, false);
    assert.ok(denied.retryAfter > 0 && denied.reset > Date.now());
    assert.equal((await limiter.check("exports", "user:ann", { cost: 0 })).remaining, 1, "a denial consumes nothing");
    assert.equal((await limiter.check("exports", "user:bob")).remaining, 4);
    const usage = await limiter.usage("exports", "user:ann");
    assert.deepEqual([usage.scope, usage.limit, usage.used, usage.remaining, usage.blockedUntil, usage.retryAt], ["isolate", 5, 4, 1, undefined, undefined]);
    // usage and reset accept every name with which a caller can be checked.
    for (const name of ["everybody", "ada@example.org", "unknown", "global", "192.0.2.1", "id:7"]) {
      await limiter.check("exports", name, { cost: 3 });
      assert.equal((await limiter.usage("exports", name)).used, 3, name);
      await limiter.reset("exports", name);
      assert.equal((await limiter.check("exports", name, { cost: 0 })).remaining, 5, name);
    }
    assert.equal((await limiter.usage("exports", usage.caller)).used, 4, "usage should accept the key that it returned as `caller`");
    await limiter.reset("exports", "user:ann");
    assert.equal((await limiter.usage("exports", "user:ann")).used, 0);
  });

  it("health reports what the control plane reports with a token", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "many,60" });
    const health = await limiter.health();
    assert.deepEqual([health.status, health.store, health.breaker], ["misconfigured", "memory", null]);
    assert.match(JSON.stringify(health), /RATE_LIMIT_GENERAL/);
  });

  it("the control plane requires the token", async () => {
    const limiter = limiterOf({ ADMIN_TOKEN: "an-admin-token-of-this-test" });
    const ask = (path, token) => limiter.controlPlane(from(path, { headers: token ? { Authorization: `Bearer ${token}` } : {} }), { address: ADDRESS });
    assert.equal((await ask("/_limiter/policies")).status, 401);
    assert.equal((await ask("/_limiter/policies", "an-admin-token-of-this-test")).status, 200);
    assert.equal((await ask("/elsewhere")).status, 404);
    const block = from("/_limiter/blocked/192.0.2.99", { method: "PUT", body: '{"seconds":60}', headers: { Authorization: "Bearer an-admin-token-of-this-test" } });
    assert.equal((await limiter.controlPlane(block, { address: ADDRESS })).status, 200);
    assert.equal((await limiter.limit(from(), { address: "192.0.2.99" })).blocked, true);
  });

  it("tend does the schedule's work", async () => {
    const limiter = limiterOf({ RATE_LIMIT_METRICS: "true", METRICS_TOKEN: "a-metrics-token-of-this-test" });
    await limiter.limit(from(), { address: ADDRESS });
    await limiter.tend();
    const metrics = await limiter.controlPlane(from("/_limiter/metrics", { headers: { Authorization: "Bearer a-metrics-token-of-this-test" } }), { address: ADDRESS });
    assert.match(await metrics.text(), /^edge_limiter_requests_total\{[^}]*outcome="admitted"[^}]*\} 1$/m);
  });
});

describe("the environment", () => {
  it("the package reads exactly the variables in the table of docs/configuration.md", () => {
    const page = readFileSync(new URL("../../docs/configuration.md", import.meta.url), "utf8");
    const table = page.slice(page.indexOf("| variable | meaning | default |"));
    const rows = table.slice(0, table.indexOf("\n\n")).split("\n").slice(2);
    const names = rows.flatMap((row) => [...row.split("|")[1].matchAll(/`([A-Z][A-Z0-9_]*)/g)].map(([, name]) => name));
    assert.ok(names.length > 35 && names.includes("CLIENT_IP_HEADER"), `${names}`);
    // `ORIGIN` is a binding, which only a Worker has.
    assert.deepEqual([...names, "KV_REST_API_URL", "KV_REST_API_TOKEN"].filter((name) => !isRead(name)), ["ORIGIN"]);
    for (const name of ["PATH", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "VERCEL", "X_RATE_LIMIT_GENERAL", "CLIENT_IP_HEADERS"]) assert.equal(isRead(name), false, name);
  });
});

describe("errors of use", () => {
  it("each error has a code and a message that says what to do", async () => {
    const limiter = limiterOf({ RATE_LIMIT_GENERAL: "5,60" });
    const cases = [
      ["no_address", limiter.limit(from()), /CLIENT_IP_HEADER/],
      ["unknown_policy", limiter.check("generale", ADDRESS), /policies/],
      ["unknown_policy", limiter.usage("generale", ADDRESS), /polic/],
      ["unknown_policy", limiter.reset("generale", ADDRESS), /polic/],
      ["bad_identifier", limiter.usage("general", "user:"), /empty/],
      ["bad_identifier", limiter.check("general", ""), /identifier/],
      ["bad_identifier", limiter.check("general", 7), /identifier/],
      ["bad_identifier", limiter.check("general", "user:"), /empty/],
      ["bad_identifier", limiter.usage("general", "user:\ud800"), /string/],
      ["bad_identifier", limiter.reset("general", "user:\ud800"), /string/],
      ["bad_argument", limiter.check("general", ADDRESS, { cost: -1 }), /cost/],
      ["bad_argument", limiter.check("general", ADDRESS, { rate: 5 }), /rate/],
      ["bad_argument", limiter.limit(from(), { ip: ADDRESS }), /address/],
      ["bad_argument", limiter.limit(from(), 7), /address/],
      ["bad_argument", limiter.redis.logRateLimitEvent(), /identifier/],
      ["bad_argument", limiter.redis.logRateLimitEvent({ identifier: "\ud800", policy: "general" }), /identifier/],
      ["no_address", limiter.limit(from(), null), /CLIENT_IP_HEADER/],
      ["bad_argument", limiter.check("general", ADDRESS, { cost: 1.5 }), /cost/],
      ["bad_identifier", limiter.redis.blockIP("nobody"), /address/],
      ["bad_identifier", limiter.redis.isIPBlocked("nobody"), /address/],
      ["bad_identifier", limiter.redis.unblockIP(""), /address/],
      ["bad_argument", limiter.redis.blockIP("192.0.2.1", 0), /seconds/],
      ["bad_argument", limiter.redis.getRateLimitEvents(0), /limit/],
      ["bad_argument", limiter.redis.getSuspiciousIPs(1e9), /limit/],
      ["bad_argument", limiter.redis.clearOldRateLimitEvents(-1), /olderThanMs/],
      ["bad_argument", limiter.limit(from(), { address: ADDRESS, waitUntil: 7 }), /waitUntil/],
    ];
    for (const [code, promise, message] of cases) {
      const error = await rejects(promise, code);
      assert.ok(error instanceof LimiterError && error instanceof Error && error.name === "LimiterError", code);
      assert.match(error.message, message, code);
    }
    for (const options of [{ trustProxy: -1 }, { trustProxy: true }, { trustProxy: 33 }, { environment: {} }, 7, { env: "x" }, { waitUntil: {} }]) {
      assert.throws(() => createLimiter(options), { name: "LimiterError", code: "bad_argument" }, JSON.stringify(options));
    }
    await rejects(limiterOf({ CLIENT_IP_HEADER: "x-real-ip" }, { trustProxy: 1 }).limit(from()), "bad_argument");
  });

  it("limit requires waitUntil on a platform that ends background work", async () => {
    const env = variables({ VERCEL: "1" });
    const request = from("/", { headers: { "x-real-ip": ADDRESS } });
    const { redis } = createLimiter({ env });
    await redis.set("a", "1");
    assert.equal(await redis.get("a"), "1", "redis.get needs no waitUntil");
    const error = await rejects(createLimiter({ env }).limit(request), "no_wait_until");
    assert.match(error.message, /waitUntil/);
    assert.equal((await createLimiter({ env }).limit(request, { waitUntil: () => {} })).allowed, true);
    const key = Symbol.for("@vercel/request-context");
    const passed = [];
    globalThis[key] = { get: () => ({ waitUntil: (promise) => passed.push(promise) }) };
    try {
      const counting = createLimiter({ env: { ...env, RATE_LIMIT_METRICS: "true" } });
      assert.equal((await counting.limit(request)).allowed, true);
    } finally {
      delete globalThis[key];
    }
    assert.ok(passed.length > 0 && passed.every((promise) => promise instanceof Promise));
  });
});

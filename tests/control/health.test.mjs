/** The control plane's health, and that it never says a value; and what is no call of the control plane. */

import assert from "node:assert/strict";
import { afterEach, describe, it } from "node:test";
import { PLANTED_SECRETS } from "../harness/fixtures.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const HEALTH = { path: "/_limiter/health" };
const { ADMIN_TOKEN } = PLANTED_SECRETS;
const admin = { Authorization: `Bearer ${ADMIN_TOKEN}` };

let limiter;
async function start(vars) {
  limiter = await startWorkerd({ vars });
  return (options) => send(limiter.url, options);
}
afterEach(() => limiter?.stop());

describe("health", () => {
  it("is public, and short", async () => {
    const ask = await start({ ADMIN_TOKEN });
    const answer = await ask(HEALTH);
    assert.deepEqual([answer.status, answer.headers["content-type"], answer.headers["cache-control"]], [200, "application/json", "no-store"]);
    const { version, ...rest } = answer.json();
    assert.match(version, /^\d+\.\d+\.\d+$/);
    assert.deepEqual(rest, { status: "ok", store: "memory", breaker: null });
    assert.equal((await ask({ ...HEALTH, method: "HEAD" })).status, 200);
  });

  it("takes GET and HEAD alone", async () => {
    const ask = await start({ ADMIN_TOKEN });
    for (const method of ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"]) {
      const answer = await ask({ ...HEALTH, method, body: "x", headers: admin });
      assert.deepEqual([answer.status, answer.headers.allow], [405, "GET, HEAD"], method);
    }
  });

  it("is not counted, nor stopped by a limit", async () => {
    const ask = await start({ RATE_LIMIT_GENERAL: "1,3600" });
    const headers = { "CF-Connecting-IP": "192.0.2.1" };
    for (let request = 0; request < 3; request++) assert.equal((await ask({ ...HEALTH, headers })).status, 200);
    assert.equal((await ask({ path: "/", headers })).status, 200);
    assert.equal((await ask({ path: "/", headers })).status, 429);
    assert.equal((await ask({ ...HEALTH, headers })).status, 200);
  });

  it("the token opens the details, nothing else does", async () => {
    const ask = await start({ ADMIN_TOKEN, RATE_LIMIT_TYPO: "1,1" });
    const open = (await ask({ ...HEALTH, headers: admin })).json();
    assert.deepEqual(open.errors, []);
    assert.deepEqual(open.warnings.map(({ variable }) => variable), ["RATE_LIMIT_TYPO"]);
    for (const Authorization of [
      "", "Bearer", "Bearer ", `Bearer ${ADMIN_TOKEN.slice(0, -1)}`, `Bearer ${ADMIN_TOKEN}x`, `Basic ${ADMIN_TOKEN}`, ADMIN_TOKEN, "Bearer undefined", "Bearer \xff",
    ]) {
      const shut = (await ask({ ...HEALTH, headers: { Authorization } })).json();
      assert.deepEqual(Object.keys(shut).sort(), ["breaker", "status", "store", "version"], Authorization);
    }
  });

  it("without a token set nothing opens them", async () => {
    const ask = await start({ RATE_LIMIT_AUTH: "garbage" });
    for (const Authorization of ["Bearer ", "Bearer undefined", "Bearer null"]) {
      const answer = (await ask({ ...HEALTH, headers: { Authorization } })).json();
      assert.deepEqual([answer.status, answer.errors], ["misconfigured", undefined]);
    }
  });

  it("names every bad variable and its rule, and no value, there or in the logs", async () => {
    const bad = {
      RATE_LIMIT_AUTH: "planted-1",
      RATE_LIMIT_ENABLED: "planted-2",
      RATE_LIMIT_HEADERS: "planted-3",
      RATE_LIMIT_POLICIES: { auth: { algorithm: "planted-4", "planted-5": "planted-6" } },
      RATE_LIMIT_ROUTES: [{ path: "planted-7", policies: ["planted-8"] }, "planted-9"],
      ORIGIN_URL: "planted-10",
      ORIGIN_SECRET: "planted-11 \u{1f600}",
      CLIENT_IP_HEADER: "planted 12",
      IPV6_PREFIX: "planted-13",
      REDIS_KEY_PREFIX: "planted 14",
      REDIS_TIMEOUT: "planted-15",
      UPSTASH_REDIS_REST_URL: "planted-16",
      UPSTASH_REDIS_REST_TOKEN: "planted-17",
      REDIS_ENABLED: "planted-18",
      DEFAULT_RATE_LIMIT_MAX: { planted: 19 },
      DEFAULT_RATE_LIMIT_WINDOW: "planted-20",
      RATE_LIMIT_BLOCKED: "planted-21",
    };
    const ask = await start({ ADMIN_TOKEN, ...bad });
    const publicly = await ask(HEALTH);
    assert.equal(publicly.json().status, "misconfigured");
    assert.equal(publicly.json().errors, undefined);
    const answer = await ask({ ...HEALTH, headers: admin });
    const { errors } = answer.json();
    for (const variable of Object.keys(bad)) {
      // The URL is wrong before its token is looked at.
      if (variable === "UPSTASH_REDIS_REST_TOKEN") continue;
      const found = errors.find((error) => error.variable.startsWith(variable));
      assert.ok(found, `${variable} is named among ${errors.map((error) => error.variable)}`);
      assert.ok(found.rule.length > 10);
      await limiter.logged(new RegExp(variable));
    }
    for (const text of [publicly.text(), answer.text(), limiter.logs()]) {
      assert.doesNotMatch(text, /planted/i);
    }
    // Misconfigured is not switched off: what can be decided is decided, the stricter way.
    const request = await ask({ path: "/", headers: { "CF-Connecting-IP": "192.0.2.1" } });
    assert.ok(request.headers["x-ratelimit-limit"]);
  });

  it("good secrets are nowhere to be read", async () => {
    const ask = await start({ ...PLANTED_SECRETS, UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1/planted-path" });
    // Its store cannot be reached: after five failures that is logged as well.
    let request;
    for (let failure = 0; failure < 5; failure++) request = await ask({ path: "/", headers: { "CF-Connecting-IP": "192.0.2.1" } });
    const answer = await ask({ ...HEALTH, headers: admin });
    const { status, store, breaker, failing } = answer.json();
    assert.deepEqual([request.status, status, store, breaker], [200, "degraded", "memory", "open"]);
    assert.equal(failing.why, "cannot be reached");
    assert.ok(Math.abs(failing.since - Date.now()) < 60_000);
    assert.ok(failing.next_try > failing.since);
    assert.equal((await ask(HEALTH)).json().failing, undefined);
    await limiter.logged(/Upstash: cannot be reached/);
    for (const text of [request.text(), answer.text(), limiter.logs()]) assert.doesNotMatch(text, /planted/);
  });
});

describe("what is no call of the control plane", () => {
  it("is not there, nor forwarded", async () => {
    const ask = await start({ ADMIN_TOKEN });
    for (const path of ["/_limiter", "/_limiter/", "/_limiter/metrics", "/_limiter/blocked/192.0.2.1/x", "/_limiter/health/", "/_limiter/healthy", "/_limiter/?x"]) {
      const answer = await ask({ path, headers: admin });
      assert.deepEqual([answer.status, answer.json().error, answer.headers["cache-control"]], [404, "not_found", "no-store"], path);
      assert.equal(answer.headers["x-ratelimit-limit"], undefined);
    }
    // Beside it begins the origin's.
    assert.equal((await ask({ path: "/_limiterx", headers: { "CF-Connecting-IP": "192.0.2.1" } })).json().admitted, true);
    assert.equal((await ask({ path: "/_limiter/health?x=1" })).status, 200);
  });

  it("wrong tokens are limited per address, and the right one from there is not looked at", async () => {
    const limiter = await startWorkerd({ vars: { ADMIN_TOKEN, RATE_LIMIT_ENABLED: false, RATE_LIMIT_ADMIN: "10,60,300" } });
    try {
      const ask = (token, address) =>
        send(limiter.url, { path: "/_limiter/health", headers: { "CF-Connecting-IP": address, Authorization: `Bearer ${token}` } });
      const statuses = [];
      for (let i = 0; i < 12; i++) statuses.push((await ask(`guess-${i}`, "192.0.2.1")).status);
      assert.deepEqual(statuses, [...Array(10).fill(200), 429, 429]);
      const refused = await ask(ADMIN_TOKEN, "192.0.2.1");
      assert.equal(refused.status, 429);
      assert.ok(Number(refused.headers["retry-after"]) > 0);
      assert.deepEqual((await ask(ADMIN_TOKEN, "192.0.2.2")).json().errors, []);
    } finally {
      await limiter.stop();
    }
  });
});

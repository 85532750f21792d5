/** No value of a variable is in the control plane's health or in the runtime's logs. What health reports is tested in `src/limiter/tests/`. */

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
    await limiter.logged(/Redis: cannot be reached/);
    for (const text of [request.text(), answer.text(), limiter.logs()]) assert.doesNotMatch(text, /planted/);
  });
});

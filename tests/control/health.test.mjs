/** Neither health nor the runtime's logs contain the value of a variable. `src/limiter/tests/` tests what health reports. */

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

describe("GET /_limiter/health", () => {
  it("names every bad variable and its rule, and its value is neither there nor in the logs", async () => {
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
      // The URL is an error already, so its token is not checked.
      if (variable === "UPSTASH_REDIS_REST_TOKEN") continue;
      const found = errors.find((error) => error.variable.startsWith(variable));
      assert.ok(found, `${variable} is not among the errors for ${errors.map((error) => error.variable)}`);
      assert.ok(found.rule.length > 10);
      await limiter.logged(new RegExp(variable));
    }
    for (const text of [publicly.text(), answer.text(), limiter.logs()]) {
      assert.doesNotMatch(text, /planted/i);
    }
    // A misconfigured limiter still decides, with the stricter reading.
    const request = await ask({ path: "/", headers: { "CF-Connecting-IP": "192.0.2.1" } });
    assert.ok(request.headers["x-ratelimit-limit"]);
  });

  it("contains no secret while Redis fails, nor do the logs", async () => {
    const ask = await start({ ...PLANTED_SECRETS, UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1/planted-path" });
    // The store cannot be reached. The limiter logs that after five failures.
    let request;
    for (let failure = 0; failure < 5; failure++) request = await ask({ path: "/", headers: { "CF-Connecting-IP": "192.0.2.1" } });
    const answer = await ask({ ...HEALTH, headers: admin });
    const { status, store, breaker, failing } = answer.json();
    assert.deepEqual([request.status, status, store, breaker], [200, "degraded", "memory", "open"]);
    assert.equal(failing.why, "Redis cannot be reached");
    assert.ok(Math.abs(failing.since - Date.now()) < 60_000);
    assert.ok(failing.next_try > failing.since);
    assert.equal((await ask(HEALTH)).json().failing, undefined);
    await limiter.logged(/Redis failed: Redis cannot be reached/);
    for (const text of [request.text(), answer.text(), limiter.logs()]) assert.doesNotMatch(text, /planted/);
  });
});

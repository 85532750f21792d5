/** Requests exempt from limits, as far as only the runtime or a shared Redis shows it. `src/limiter/tests/` tests who is exempt. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { ADMIN_TOKEN, BYPASS_TOKEN, blocked, eventually, get, good, isAdmitted, isBlocked } from "../harness/control.mjs";
import { CALLER } from "../harness/fixtures.mjs";
import { startShared } from "../harness/limited.mjs";
import { startOrigin } from "../harness/origin.mjs";

describe("requests exempt from limits", () => {
  let shared, origin;
  before(async () => {
    shared = await startShared();
    origin = await startOrigin();
  });
  after(async () => {
    await origin?.stop();
    await shared?.stop();
  });

  it("a request with the bypass token is admitted beyond the limit, and the token does not reach the origin", async () => {
    const limiter = await shared.limiter({ ORIGIN_URL: origin.url, RATE_LIMIT_GENERAL: "1,86400", RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN });
    const statuses = [];
    for (let request = 0; request < 2; request++) statuses.push((await get(limiter, CALLER)).status);
    assert.deepEqual(statuses, [200, 429]);
    await isAdmitted(limiter, CALLER, "/in", { headers: { "X-RateLimit-Bypass": BYPASS_TOKEN } });
    assert.equal(origin.last.url, "/in");
    assert.equal(origin.last.header("x-ratelimit-bypass"), undefined);
    assert.ok(!origin.last.rawHeaders.join("\n").includes(BYPASS_TOKEN));
  });

  it("an address that is added to the allow-list is admitted although its range is blocked, and its neighbour is not", async () => {
    const before = await shared.warm({ ADMIN_TOKEN });
    await good(before, "PUT", blocked("203.0.113.0/24"));
    const allowing = await shared.warm({ ADMIN_TOKEN, RATE_LIMIT_ALLOWLIST: "203.0.113.7" });
    await eventually(() => isBlocked(allowing, "203.0.113.8", null));
    await isAdmitted(allowing, "203.0.113.7");
    await isBlocked(before, "203.0.113.7", null);
  });
});

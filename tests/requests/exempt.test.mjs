/** Who is not limited: addresses of the allow-list, and who has the bypass token. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, BYPASS_TOKEN, MODES, blocked, eventually, get, good, has, isAdmitted, isBlocked, usage } from "../harness/control.mjs";
import { CALLER } from "../harness/fixtures.mjs";
import { PREFIX, WINDOW, ask, startShared } from "../harness/limited.mjs";
import { startOrigin } from "../harness/origin.mjs";

describe("exempt from limits", () => {
  let shared, redis, origin;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
    origin = await startOrigin();
  });
  after(async () => {
    await origin?.stop();
    await shared?.stop();
  });
  beforeEach(() => shared.reset());

  for (const [mode, { vars: own }] of Object.entries(MODES)) {
    const start = (vars) => shared.limiter({
      ADMIN_TOKEN, ORIGIN_URL: origin.url, RATE_LIMIT_GENERAL: `2,${WINDOW}`, RATE_LIMIT_IP: "off", ...own, ...vars,
    });

    describe(`in ${mode}`, () => {
      const lists = {
        "as text": "192.0.2.1, 10.0.0.0/8,2001:db8:aaaa::/48 , 2001:db8:bbbb::1",
        "as a list": ["192.0.2.1", "10.0.0.0/8", "2001:db8:aaaa::/48", "2001:db8:bbbb::1"],
      };
      for (const [how, RATE_LIMIT_ALLOWLIST] of Object.entries(lists)) {
        it(`the allow-list ${how}: never limited, never counted`, async () => {
          const limiter = await start({ RATE_LIMIT_ALLOWLIST });
          const exempt = [CALLER, "::ffff:192.0.2.1", "10.0.0.0", "10.255.255.255", "2001:db8:aaaa:ffff::1", "2001:db8:bbbb::1"];
          for (const caller of exempt) {
            for (let request = 0; request < 5; request++) await isAdmitted(limiter, caller);
            has(await good(limiter, "GET", usage("general", caller)), { used: 0 });
          }
          assert.deepEqual((await redis.keys(`${PREFIX}general:*`)), []);
          for (const caller of ["192.0.2.2", "9.255.255.255", "11.0.0.0", "2001:db8:aaab::1", "2001:db8:bbbc::1"]) {
            for (const status of [200, 200, 429]) assert.equal(await ask(limiter, caller), status, caller);
          }
        });
      }

      it("the bypass token: admitted beyond the limit, as long as it is sent, and not handed on", async () => {
        const limiter = await start({ RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN });
        const headers = { "X-RateLimit-Bypass": BYPASS_TOKEN };
        for (const status of [200, 200, 429]) assert.equal(await ask(limiter, CALLER), status);
        for (let request = 0; request < 5; request++) {
          await isAdmitted(limiter, CALLER, "/in", { headers });
          assert.equal(origin.last.url, "/in");
          assert.equal(origin.last.header("x-ratelimit-bypass"), undefined);
          assert.ok(!origin.last.rawHeaders.join("\n").includes(BYPASS_TOKEN));
        }
        assert.equal(await ask(limiter, CALLER), 429);
        has(await good(limiter, "GET", usage("general", CALLER)), { used: 2 });
      });

      it("a wrong bypass token changes nothing", async () => {
        const limiter = await start({ RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN });
        const wrong = ["", "wrong", BYPASS_TOKEN.slice(1), `${BYPASS_TOKEN}x`, BYPASS_TOKEN.toUpperCase(), `Bearer ${BYPASS_TOKEN}`, `${BYPASS_TOKEN},${BYPASS_TOKEN}`, "true", ADMIN_TOKEN];
        for (const [i, token] of wrong.entries()) {
          const headers = { "X-RateLimit-Bypass": token };
          const statuses = [];
          for (let request = 0; request < 3; request++) statuses.push((await get(limiter, `192.0.2.${10 + i}`, "/", { headers })).status);
          assert.deepEqual(statuses, [200, 200, 429], token);
        }
        // Nor does it where none is set.
        const without = await start();
        for (const [i, token] of ["", "undefined", BYPASS_TOKEN].entries()) {
          const headers = { "X-RateLimit-Bypass": token };
          const statuses = [];
          for (let request = 0; request < 3; request++) statuses.push((await get(without, `192.0.2.${110 + i}`, "/", { headers })).status);
          assert.deepEqual(statuses, [200, 200, 429], token);
        }
      });

      it("the bypass token opens nothing of the control plane", async () => {
        const limiter = await start({ RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN });
        for (const headers of [{ "X-RateLimit-Bypass": BYPASS_TOKEN }, { Authorization: `Bearer ${BYPASS_TOKEN}` }]) {
          assert.equal((await get(limiter, "192.0.2.3", "/_limiter/blocked", { headers })).status, 401);
        }
      });
    });
  }

  it("an address that comes to be allowed is admitted though its range is blocked, and its neighbour is not", async () => {
    const before = await shared.warm({ ADMIN_TOKEN });
    await good(before, "PUT", blocked("203.0.113.0/24"));
    const allowing = await shared.warm({ ADMIN_TOKEN, RATE_LIMIT_ALLOWLIST: "203.0.113.7" });
    await eventually(() => isBlocked(allowing, "203.0.113.8", null));
    await isAdmitted(allowing, "203.0.113.7");
    await isBlocked(before, "203.0.113.7", null);
  });
});

/**
 * Preflights and pages of other origins, in the real runtime. `src/limiter/tests/browsers.rs` tests which requests are
 * preflights, and which pages may read the limiter's own answers.
 */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { HOUR_S } from "../harness/fixtures.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const PAGE = "https://app.example";
const NAMES = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-RateLimit-Type, X-RateLimit-Store, X-RateLimit-Shadow, Retry-After";
const PREFLIGHT = { Origin: PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization" };
const VARS = {
  RATE_LIMIT_MFA: `2,${HOUR_S},900`, RATE_LIMIT_IP: "off", RATE_LIMIT_CORS_ORIGINS: [PAGE],
  RATE_LIMIT_ROUTES: [{ path: "/api/mfa/verify", policies: ["mfa"] }],
};

describe("a page of another origin", () => {
  let origin, limiter;
  let callers = 0;

  before(async () => {
    origin = await startOrigin();
    limiter = await startWorkerd({ vars: { ...VARS, ORIGIN_URL: origin.url } });
  });
  after(async () => {
    await limiter?.stop();
    await origin?.stop();
  });

  /** Returns a function that sends requests of a new caller. */
  function client() {
    const address = `198.18.0.${callers++}`;
    return ({ headers, ...options } = {}) =>
      send(limiter.url, { path: "/api/mfa/verify", ...options, headers: { "CF-Connecting-IP": address, ...headers } });
  }

  it("gets all attempts of the policy, although each needs a preflight", async () => {
    origin.handler = (request, response) => {
      response.writeHead(request.method === "OPTIONS" ? 204 : 200, {
        "Access-Control-Allow-Origin": PAGE, "Access-Control-Allow-Credentials": "true", "Access-Control-Allow-Headers": "authorization",
      }).end();
    };
    const ask = client();
    const types = [];
    for (const status of [200, 200, 429]) {
      const preflight = await ask({ method: "OPTIONS", headers: PREFLIGHT });
      assert.equal(preflight.status, 204);
      assert.equal(preflight.headers["access-control-allow-headers"], "authorization", "the preflight was not answered by the origin");
      types.push(preflight.headers["x-ratelimit-type"]);
      const answer = await ask({ method: "POST", headers: { Origin: PAGE, Authorization: "Bearer of.the.page" }, body: "123456" });
      assert.equal(answer.status, status);
      assert.equal(answer.headers["x-ratelimit-type"], "mfa");
      // The page may read both kinds of answer, and the reason of a denial.
      assert.equal(answer.headers["access-control-allow-origin"], PAGE);
      assert.equal(answer.headers["access-control-allow-credentials"], "true");
      assert.equal(answer.headers["access-control-expose-headers"], NAMES);
    }
    assert.deepEqual(types, ["preflight", "preflight", "preflight"]);
  });

  it("an OPTIONS request with a body is no preflight, chunked or not", async () => {
    origin.handler = (_, response) => response.end();
    async function* chunks() {
      yield Buffer.from("code=123456");
    }
    for (const [body, headers, type] of [
      [undefined, {}, "preflight"],
      ["", {}, "preflight"],
      ["code=123456", {}, "mfa"],
      [chunks(), {}, "mfa"],
    ]) {
      const answer = await client()({ method: "OPTIONS", headers: { ...PREFLIGHT, ...headers }, body });
      assert.deepEqual([answer.status, answer.headers["x-ratelimit-type"]], [200, type]);
    }
  });

  it("reads the limiter's headers next to those that the origin exposes", async () => {
    for (const [theirs, exposed] of [
      [{ "Access-Control-Allow-Origin": "*" }, NAMES],
      [{ "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "ETag, Link" }, `ETag, Link, ${NAMES}`],
      [{ "Access-Control-Allow-Origin": PAGE, "Access-Control-Expose-Headers": ["ETag", "Link"] }, `ETag, Link, ${NAMES}`],
      [{ "Access-Control-Allow-Origin": PAGE, "Access-Control-Expose-Headers": "*" }, `*, ${NAMES}`],
      [{ "Access-Control-Expose-Headers": "ETag" }, "ETag"],
      [{}, undefined],
    ]) {
      origin.handler = (_, response) => response.writeHead(200, theirs).end("body");
      const answer = await client()({ headers: { Origin: PAGE } });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers["access-control-expose-headers"], exposed);
      assert.equal(answer.headers["access-control-allow-origin"], theirs["Access-Control-Allow-Origin"]);
      assert.equal(answer.text(), "body");
    }
  });

  it("can read the 502 of an unreachable origin, and a person gets it as a page", async () => {
    origin.handler = (request) => request.socket.destroy();
    const answer = await client()({ headers: { Origin: PAGE, Accept: "text/html" } });
    assert.equal(answer.status, 502);
    assert.equal(answer.headers["access-control-allow-origin"], PAGE);
    assert.equal(answer.headers["access-control-expose-headers"], NAMES);
    assert.equal(answer.headers["x-ratelimit-remaining"], "1");
    assert.equal(answer.headers["content-type"], "text/html; charset=utf-8");
    assert.match(answer.text(), /The origin cannot be reached/);
    const other = await client()({ headers: { Origin: "https://other.example" } });
    assert.equal(other.status, 502);
    assert.equal(other.headers["access-control-allow-origin"], undefined);
    assert.equal(other.json().error, "bad_gateway");
  });
});

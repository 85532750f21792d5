/**
 * Forwarding to the route's own origin, with neither `ORIGIN_URL` nor a binding. On Cloudflare the Worker's `fetch` of the
 * request's URL reaches the route's origin. Here it reaches a server in its place, and two headers stand for what Cloudflare's
 * network reports of a request. A Worker that runs elsewhere forwards to no host that a client names.
 */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { raw } from "../harness/raw.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const SITE = "shop.example";
const SECRET = "a-secret-of-this-test";

/** Headers that Cloudflare's network adds. The runtime reads `request.cf` from the second one. */
const EDGE = { "CF-Ray": "230b030023ae2822", "X-Test-CF": '{"colo":"VIE"}' };
const AT_EDGE = { cfHeader: "X-Test-CF" };

describe("forwarding to the route's own origin", () => {
  let origin, limiter;
  before(async () => {
    origin = await startOrigin();
    limiter = await startWorkerd({ ...AT_EDGE, outbound: origin.url, vars: { RATE_LIMIT_GENERAL: "5,3600" } });
  });
  after(async () => {
    await limiter?.stop();
    await origin?.stop();
  });

  const ask = (caller, options = {}) =>
    send(limiter.url, { ...options, headers: { ...EDGE, Host: SITE, "CF-Connecting-IP": caller, ...options.headers } });

  it("sends the request unchanged to the same host", async () => {
    const body = randomBytes(100_000);
    origin.handler = (_, response) => response.writeHead(201, "Made It", { "X-Own": "yes" }).end("made");
    const answer = await ask("192.0.2.1", { method: "PROPFIND", path: "/a%2Fb//?q=%26", body, headers: { "X-Edge-Limiter-IP": "6.6.6.6" } });
    assert.deepEqual([answer.status, answer.statusText, answer.text()], [201, "Made It", "made"]);
    assert.equal(answer.headers["x-own"], "yes");
    assert.equal(answer.headers["x-ratelimit-remaining"], "4");
    const received = origin.last;
    const { method, url } = received;
    assert.deepEqual([method, url], ["PROPFIND", "/a%2Fb//?q=%26"]);
    assert.equal(received.header("host"), SITE);
    assert.equal(received.header("x-forwarded-host"), SITE);
    assert.equal(received.header("x-edge-limiter-ip"), "192.0.2.1");
    assert.deepEqual(await received.body, body);
  });

  it("returns a redirect to the client", async () => {
    origin.handler = (_, response) => response.writeHead(307, { Location: "/elsewhere" }).end();
    const before = origin.requests.length;
    const answer = await ask("192.0.2.2");
    assert.deepEqual([answer.status, answer.headers.location], [307, "/elsewhere"]);
    assert.equal(origin.requests.length, before + 1);
  });

  it("denies past the limit without asking the origin", async () => {
    origin.handler = (_, response) => response.end();
    const before = origin.requests.length;
    const statuses = [];
    for (let i = 0; i < 7; i++) statuses.push((await ask("192.0.2.3")).status);
    assert.deepEqual(statuses, [200, 200, 200, 200, 200, 429, 429]);
    assert.equal(origin.requests.length, before + 5);
  });

  it("answers 502 with the quota's numbers if the origin is unreachable", async () => {
    const lonely = await startWorkerd({ ...AT_EDGE, outbound: "http://127.0.0.1:1", vars: { RATE_LIMIT_GENERAL: "5,3600" } });
    try {
      const answer = await send(lonely.url, { headers: { ...EDGE, Host: SITE, "CF-Connecting-IP": "192.0.2.4" } });
      assert.equal(answer.status, 502);
      assert.equal(answer.json().error, "bad_gateway");
      assert.equal(answer.headers["x-ratelimit-remaining"], "4");
    } finally {
      await lonely.stop();
    }
  });

  it("sends the path that it matched with routes", async () => {
    origin.handler = (_, response) => response.end();
    const head = ["CF-Connecting-IP: 192.0.2.5", ...Object.entries(EDGE).map((header) => header.join(": "))];
    for (const target of ["/a\x1f", "/%2e%2e/a", "/x\\..\\a"]) {
      assert.equal((await raw(limiter, [`GET ${target} HTTP/1.1`, ...head])).status, 200);
      assert.equal(origin.last.url, "/a", target);
      assert.equal(origin.last.header("host"), "limiter");
    }
  });
});

describe("forwarding without an origin, outside of Cloudflare", () => {
  let origin;
  before(async () => {
    origin = await startOrigin();
  });
  after(() => origin?.stop());

  async function withLimiter(options, body) {
    const limiter = await startWorkerd({ outbound: origin.url, ...options, vars: { ORIGIN_SECRET: SECRET, ...options.vars } });
    try {
      await body(limiter);
    } finally {
      await limiter.stop();
    }
  }

  it("sends no request to the host that its Host names, whatever its other headers", () =>
    withLimiter({}, async (limiter) => {
      for (const forged of [{}, EDGE, { "CF-Ray": "1-VIE", "CF-IPCountry": "AT", "CDN-Loop": "cloudflare", "MF-CF-Blob": EDGE["X-Test-CF"] }]) {
        const answer = await send(limiter.url, { headers: { Host: "evil.example", "CF-Connecting-IP": "192.0.2.1", ...forged } });
        assert.equal(answer.status, 502);
        assert.match(answer.json().message, /set ORIGIN_URL/);
        assert.ok(!JSON.stringify(answer.rawHeaders).includes(SECRET));
      }
      assert.equal(origin.requests.length, 0);
    }));

  it("sends no request with an invented data center and no CF-Ray", () =>
    withLimiter(AT_EDGE, async (limiter) => {
      const answer = await send(limiter.url, { headers: { ...EDGE, "CF-Ray": [], Host: SITE, "CF-Connecting-IP": "192.0.2.1" } });
      assert.equal(answer.status, 502);
      assert.equal(origin.requests.length, 0);
    }));

  it("sends requests to their own URL with ORIGIN_URL=route", () =>
    withLimiter({ vars: { ORIGIN_URL: "route" } }, async (limiter) => {
      const answer = await send(limiter.url, { headers: { Host: SITE, "CF-Connecting-IP": "192.0.2.1" } });
      assert.equal(answer.status, 200);
      assert.deepEqual([origin.last.header("host"), origin.last.header("x-edge-limiter-secret")], [SITE, SECRET]);
    }));
});

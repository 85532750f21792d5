/**
 * Forwarding to the route's own origin: neither `ORIGIN_URL` nor a binding. On Cloudflare the Worker's own `fetch` of the
 * request's URL reaches what the route points at; here it reaches a server that stands for that.
 */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const SITE = "shop.example";

describe("forwarding to the route's own origin", () => {
  let origin, limiter;
  before(async () => {
    origin = await startOrigin();
    limiter = await startWorkerd({ outbound: origin.url, vars: { RATE_LIMIT_GENERAL: "5,3600" } });
  });
  after(async () => {
    await limiter?.stop();
    await origin?.stop();
  });

  const ask = (caller, options = {}) =>
    send(limiter.url, { ...options, headers: { Host: SITE, "CF-Connecting-IP": caller, ...options.headers } });

  it("sends the request on as it is, for the same host", async () => {
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

  it("hands a redirect on", async () => {
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

  it("an unreachable one is a 502 that says where the caller stands", async () => {
    const lonely = await startWorkerd({ outbound: "http://127.0.0.1:1", vars: { RATE_LIMIT_GENERAL: "5,3600" } });
    try {
      const answer = await send(lonely.url, { headers: { Host: SITE, "CF-Connecting-IP": "192.0.2.4" } });
      assert.equal(answer.status, 502);
      assert.equal(answer.json().error, "bad_gateway");
      assert.equal(answer.headers["x-ratelimit-remaining"], "4");
    } finally {
      await lonely.stop();
    }
  });
});

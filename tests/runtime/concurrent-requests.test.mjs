/**
 * Several requests within one event, from a Worker that calls the limiter several times. An effect that one of them awaits can
 * finish before the others are answered, without a turn of the event loop in between.
 */

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const SECRET = "a-secret-of-at-least-32-characters";

/** Sends one request for each pair of caller and token, all at once. Answers with the caller that the limiter or the origin saw for each. */
const MAIN = `
import limiter from "./index.js";

export default {
  async fetch(request, env, context) {
    const asked = JSON.parse(request.headers.get("X-Asked"));
    const seen = await Promise.all(asked.map(async ([caller, token]) => {
      const headers = { "CF-Connecting-IP": caller, Authorization: "Bearer " + token };
      const response = await limiter.fetch(new Request(request.url, { headers }), env, context);
      return [caller, response.status, (await response.json()).caller];
    }));
    return Response.json(seen);
  },
};
`;

const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

function token(sub) {
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ sub, exp: Math.floor(Date.now() / 1000) + 3600 })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

for (const forwards of [false, true]) {
  describe(`concurrent requests in one event, ${forwards ? "forwarded" : "answered by the limiter"}`, () => {
    let limiter, origin;
    before(async () => {
      origin = await startOrigin((_, response, received) => response.end(JSON.stringify({ caller: received.header("x-edge-limiter-ip") })));
      limiter = await startWorkerd({
        modules: { "main.js": MAIN },
        vars: {
          RATE_LIMIT_JWT_SECRET: SECRET, RATE_LIMIT_GENERAL: "1,3600", RATE_LIMIT_IP: "off",
          RATE_LIMIT_POLICIES: { general: { authenticated: 50 } }, ...(forwards && { ORIGIN_URL: origin.url }),
        },
      });
    });
    after(() => Promise.all([limiter?.stop(), origin?.stop()]));

    it("each request gets its own answer", async () => {
      for (let round = 0; round < 5; round++) {
        const callers = Array.from({ length: 8 }, (_, number) => `198.18.${round}.${number}`);
        const asked = JSON.stringify(callers.map((caller) => [caller, token(caller)]));
        const answer = await send(limiter.url, { headers: { "X-Asked": asked } });
        assert.deepEqual(answer.json(), callers.map((caller) => [caller, 200, caller]));
      }
    });
  });
}

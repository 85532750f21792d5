/**
 * Interim responses (1xx). workerd passes an origin's first response to the Worker, whatever its status, so no Worker can relay
 * one before the answer. The limiter removes `Expect`, which asks for one, and answers 502 if the origin sends one anyway.
 */

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { raw } from "../harness/raw.mjs";
import { send } from "../harness/request.mjs";
import { ORIGIN_SETUPS } from "../harness/origin-setups.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const CALLER = "192.0.2.1";

for (const way of ORIGIN_SETUPS) {
  describe(`interim responses of an origin by ${way.name}`, () => {
    let origin, limiter;

    before(async () => {
      origin = await startOrigin();
      limiter = await startWorkerd(way.with(origin.url));
    });
    after(async () => {
      await limiter?.stop();
      await origin?.stop();
    });

    it("the 2 MB body of a client that waits for a 100 is forwarded", async () => {
      origin.handler = async (_, response, { body }) => response.end(String((await body).length));
      const body = randomBytes(2 * 1024 * 1024);
      const { status, text } = await raw(limiter, ["POST /upload HTTP/1.1", `CF-Connecting-IP: ${CALLER}`, "Expect: 100-continue"], body);
      assert.equal(status, 200, text);
      assert.ok(text.endsWith(String(body.length)), text);
      assert.equal(origin.last.header("expect"), undefined);
      assert.ok(body.equals(await origin.last.body));
    });

    it("no spelling of Expect reaches the origin", async () => {
      origin.handler = (_, response) => response.end("whole");
      for (const line of ["EXPECT: 100-Continue", "Expect: something-else", "Expect:"]) {
        const { status } = await raw(limiter, ["PUT / HTTP/1.1", `CF-Connecting-IP: ${CALLER}`, line], "body");
        assert.equal(status, 200, line);
        assert.equal(origin.last.header("expect"), undefined, line);
      }
    });

    const INTERIM = [
      [103, (response) => response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" })],
      [102, (response) => response.writeProcessing()],
      [100, (response) => response.writeContinue()],
    ];
    for (const [number, write] of INTERIM) {
      it(`an origin's ${number} is answered by a 502 that names it, and does not affect the next request`, async () => {
        for (let round = 0; round < 3; round++) {
          const left = {};
          origin.handler = async (_, response) => {
            write(response);
            await new Promise((resolve) => setTimeout(resolve, 50));
            response.end("of the first request");
          };
          const answer = await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
          assert.equal(answer.status, 502, answer.text());
          assert.equal(answer.headers["content-type"], "application/json");
          assert.match(answer.json().message, new RegExp(`${number}.*early hints`));
          left.before = answer.headers["x-ratelimit-remaining"];
          assert.ok(left.before);

          origin.handler = (_, response) => response.end("of the second");
          const next = await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
          assert.deepEqual([next.status, next.text()], [200, "of the second"]);
          assert.equal(Number(next.headers["x-ratelimit-remaining"]), left.before - 1);
        }
      });
    }
  });
}

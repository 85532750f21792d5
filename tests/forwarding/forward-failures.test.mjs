/** Origins that loop back to the limiter, cannot be reached or answer garbage: the limiter answers for them, and counts the request. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { afterEach, before, describe, it } from "node:test";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const HEADERS = { "CF-Connecting-IP": "192.0.2.1" };
const VARS = { RATE_LIMIT_GENERAL: "100,3600", RATE_LIMIT_IP: "off" };

/** What a test started. It is stopped after the test, in reverse order. */
const started = [];
const keep = async (starting) => {
  const thing = await starting;
  started.push(thing);
  return thing;
};
afterEach(async () => {
  for (const thing of started.splice(0).reverse()) await thing.stop();
});

/** A TCP server that passes each connection to `serve`. */
async function startTcp(serve) {
  const sockets = new Set();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {}).on("close", () => sockets.delete(socket));
    serve(socket, sockets);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async stop() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

/** A proxy whose URL is known before its target has a port. It forwards bytes to the port that `targetPort()` returns. */
const startProxy = (targetPort) =>
  startTcp((socket, sockets) => {
    const other = connect(targetPort(), "127.0.0.1");
    sockets.add(other);
    other.on("error", () => socket.destroy());
    socket.pipe(other).pipe(socket);
  });

describe("loops", () => {
  it("a limiter that is its own origin answers 508 at the fifth pass, and counts each pass", async () => {
    let limiter;
    const proxy = await keep(startProxy(() => limiter.port));
    limiter = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: proxy.url } }));
    // The answer has the numbers of the outermost pass, which was counted first.
    for (const left of ["99", "94"]) {
      const answer = await send(limiter.url, { headers: HEADERS });
      assert.equal(answer.status, 508);
      assert.equal(answer.json().error, "loop_detected");
      assert.equal(answer.headers["x-ratelimit-remaining"], left);
    }
  });

  it("a loop through a service binding is ended too", async () => {
    let limiter;
    const proxy = await keep(startProxy(() => limiter.port));
    limiter = await keep(startWorkerd({ vars: VARS, services: { ORIGIN: proxy.url } }));
    const answer = await send(limiter.url, { headers: HEADERS });
    assert.deepEqual([answer.status, answer.headers["x-ratelimit-remaining"]], [508, "99"]);
  });

  it("a loop through another limiter ends at the fifth pass of the first", async () => {
    let first;
    const proxy = await keep(startProxy(() => first.port));
    const second = await keep(startWorkerd({ vars: { ...VARS, RATE_LIMIT_GENERAL: "50,3600", ORIGIN_URL: proxy.url } }));
    first = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: second.url } }));
    const answer = await send(first.url, { headers: HEADERS });
    assert.deepEqual([answer.status, answer.json().error], [508, "loop_detected"]);
    assert.deepEqual([answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]], ["100", "99"]);
    assert.equal((await send(first.url, { headers: HEADERS })).headers["x-ratelimit-remaining"], "94");
  });

  it("an application may call its own public URL with the headers of the request that it serves", async () => {
    let limiter;
    const origin = await keep(startOrigin(async (request, response) => {
      const { connection: _, ...headers } = request.headers;
      const depth = Number(request.url.slice(1));
      response.end(depth === 0 ? "bottom" : (await send(limiter.url, { path: `/${depth - 1}`, headers })).text());
    }));
    limiter = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: origin.url } }));
    const answer = await send(limiter.url, { path: "/3", headers: HEADERS });
    assert.deepEqual([answer.status, answer.text(), origin.requests.length], [200, "bottom", 4]);
    const deeper = await send(limiter.url, { path: "/4", headers: HEADERS });
    assert.equal(deeper.json().error, "loop_detected");
    assert.deepEqual([deeper.headers["x-ratelimit-remaining"], origin.requests.length], ["95", 8]);
  });

  it("two limiters in a chain both count, and the answer has the outer one's numbers unless the inner one denies", async () => {
    const origin = await keep(startOrigin());
    const inner = await keep(startWorkerd({ vars: { ...VARS, RATE_LIMIT_GENERAL: "2,3600", ORIGIN_URL: origin.url, ORIGIN_SECRET: "of-the-inner-limiter" } }));
    const outer = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: inner.url, ORIGIN_SECRET: "of-the-outer-limiter" } }));
    const answers = [];
    for (let request = 0; request < 3; request++) answers.push(await send(outer.url, { headers: HEADERS }));
    assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 429]);
    // A denial has the numbers of the limiter that denies.
    assert.deepEqual(answers.map((answer) => answer.headers["x-ratelimit-remaining"]), ["99", "98", "0"]);
    assert.equal(answers[2].json().limit, 2);
    assert.equal(origin.requests.length, 2);
    assert.equal(origin.last.header("x-edge-limiter-secret"), "of-the-inner-limiter");
    assert.match(origin.last.header("x-edge-limiter-passed"), /^[0-9a-f]{16}, [0-9a-f]{16}$/);
  });

  it("a client that forges the loop guard gains nothing but a 508", async () => {
    const origin = await keep(startOrigin());
    const limiter = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: origin.url } }));
    await send(limiter.url, { headers: HEADERS });
    const guard = origin.last.header("x-edge-limiter-passed");
    const four = Array(4).fill(guard);
    for (const guards of [four, four.join(), ` ,x,,${four.join(",,")} , y`, Array(40).fill("x").join()]) {
      const answer = await send(limiter.url, { headers: { ...HEADERS, "X-Edge-Limiter-Passed": guards } });
      assert.equal(answer.status, 508, `X-Edge-Limiter-Passed: ${guards}`);
    }
    assert.equal(origin.requests.length, 1);
    assert.equal((await send(limiter.url, { headers: { ...HEADERS, "X-Edge-Limiter-Passed": `${four.join()}0` } })).status, 200);
  });
});

describe("origins that fail", () => {
  let refusing;

  before(async () => {
    const gone = await startTcp(() => {});
    await gone.stop();
    refusing = gone.url;
  });

  const FAILURES = [
    ["refuses connections", async () => ({ url: refusing })],
    ["closes without an answer", () => keep(startTcp((socket) => socket.once("data", () => socket.end())))],
    ["resets without an answer", () => keep(startTcp((socket) => socket.once("data", () => socket.resetAndDestroy())))],
    ["does not speak HTTP", () => keep(startTcp((socket) => socket.once("data", () => socket.end("\x00\x01 what?\r\n\r\n"))))],
  ];
  for (const [failure, start] of FAILURES) {
    for (const way of ["ORIGIN_URL", "binding ORIGIN"]) {
      it(`a request to an origin that ${failure}, by ${way}, is answered 502 and counted`, async () => {
        const { url } = await start();
        const limiter = await keep(startWorkerd(way === "ORIGIN_URL" ? { vars: { ...VARS, ORIGIN_URL: url } } : { vars: VARS, services: { ORIGIN: url } }));
        for (const [method, left] of [["GET", "99"], ["POST", "98"]]) {
          const body = method === "POST" ? "a body" : undefined;
          expectBadGateway(await send(limiter.url, { method, body, headers: HEADERS }), left);
        }
        assert.ok(limiter.alive);
      });
    }
  }

  it("an origin that recovers gets requests again", async () => {
    let origin;
    const proxy = await keep(startTcp((socket) => {
      if (!origin) return socket.resetAndDestroy();
      const other = connect(origin.port, "127.0.0.1");
      other.on("error", () => socket.destroy());
      socket.pipe(other).pipe(socket);
    }));
    const limiter = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: proxy.url } }));
    expectBadGateway(await send(limiter.url, { headers: HEADERS }), "99");
    origin = await keep(startOrigin());
    assert.equal((await send(limiter.url, { headers: HEADERS })).text(), "origin\n");
  });

  for (const bad of ["no URL", "ftp://origin.example", "https://", "http://user:planted-password@127.0.0.1", "http://127.0.0.1/?x=planted-password"]) {
    it(`a request with ORIGIN_URL ${JSON.stringify(bad)} is answered 502 and counted`, async () => {
      const limiter = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: bad } }));
      expectBadGateway(await send(limiter.url, { headers: HEADERS }), "99");
      assert.equal((await send(limiter.url, { path: "/_limiter/health" })).json().status, "misconfigured");
      await limiter.logged(/ORIGIN_URL/);
      assert.doesNotMatch(limiter.logs(), /planted-password/);
    });
  }

  it("the binding does not replace a bad ORIGIN_URL", async () => {
    const origin = await keep(startOrigin());
    const limiter = await keep(startWorkerd({ vars: { ...VARS, ORIGIN_URL: "no URL" }, services: { ORIGIN: origin.url } }));
    expectBadGateway(await send(limiter.url, { headers: HEADERS }), "99");
    assert.equal(origin.requests.length, 0);
  });
});

function expectBadGateway(answer, remaining) {
  assert.equal(answer.status, 502, answer.text());
  assert.equal(answer.headers["content-type"], "application/json");
  assert.equal(answer.headers["cache-control"], "no-store");
  assert.equal(answer.json().error, "bad_gateway");
  assert.equal(typeof answer.json().message, "string");
  assert.deepEqual([answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]], ["100", remaining]);
}

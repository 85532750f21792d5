/** `edge-limiter/node` on servers of `node:http` and HTTP/2. `examples.test.mjs` tests it with Express. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { Agent, createServer } from "node:http";
import { connect as connectHttp2, createServer as createHttp2 } from "node:http2";
import { connect } from "node:net";
import { after, describe, it } from "node:test";
import { eventually } from "../harness/control.mjs";
import { send } from "../harness/request.mjs";
import { createLimiter, rateLimit, serve, variables } from "./harness.mjs";

const ADMIN = { Authorization: "Bearer an-admin-token-of-this-test" };
const servers = [];
after(() => Promise.all(servers.map((server) => server.stop())));

/** Starts a server with the middleware in front of `application`. */
async function limited(vars, application = (_request, response) => response.end("ok"), serveOptions = {}) {
  const limit = rateLimit({ env: variables(vars) });
  const server = await serve((request, response) => limit(request, response, (error) => {
    if (error) response.statusCode = 500;
    application(request, response, error);
  }), serveOptions);
  servers.push(server);
  return server;
}

/** Sends a request over HTTP/2 and returns the answer's status and headers. */
async function getHttp2(server) {
  const client = connectHttp2(server.url);
  try {
    const stream = client.request({ ":path": "/" });
    const [{ ":status": status, ...headers }] = await once(stream, "response");
    return { status, headers };
  } finally {
    client.destroy();
  }
}

/** Sends bytes unchanged and returns the answer's status code. */
async function raw(server, text) {
  const { port } = new URL(server.url);
  const socket = connect(Number(port), "127.0.0.1", () => socket.end(text));
  let answer = "";
  socket.setEncoding("utf8").on("data", (chunk) => (answer += chunk));
  await once(socket, "close");
  return answer.slice(9, 12);
}

describe("middleware for Node", () => {
  it("an admitted request gets the limiter's headers, and the limiter answers a denied one", async () => {
    const server = await limited({ RATE_LIMIT_GENERAL: "2,60" });
    const first = await send(server.url);
    assert.deepEqual([first.status, first.text(), first.headers["x-ratelimit-remaining"], first.headers["x-ratelimit-type"]], [200, "ok", "1", "general"]);
    await send(server.url);
    const denied = await send(server.url);
    assert.deepEqual([denied.status, denied.json().type, denied.headers["content-type"]], [429, "general", "application/json"]);
    assert.ok(Number(denied.headers["retry-after"]) > 0);
    assert.equal(Number(denied.headers["content-length"]), denied.body.length);
    const head = await send(server.url, { method: "HEAD" });
    assert.deepEqual([head.status, head.body.length], [429, 0]);
  });

  it("no Host header or form of the request target evades a route", async () => {
    const vars = { RATE_LIMIT_GENERAL: "1000,60", RATE_LIMIT_LOGIN: "1,60", RATE_LIMIT_ROUTES: '[{"path":"/login","policies":["login"]}]' };
    const requests = [
      "POST /login HTTP/1.1\r\nHost: shop.example/free?\r\n", "POST /login HTTP/1.1\r\nHost: a/b/../free#\r\n", "POST http://shop.example/login HTTP/1.1\r\nHost: shop.example\r\n",
      "POST HTTP://x/login?a=/free HTTP/1.1\r\nHost: x\r\n", "POST //login HTTP/1.1\r\nHost: x\r\n", "POST /login HTTP/1.1\r\nHost: \\\r\n", "POST /a/../login HTTP/1.1\r\nHost: x\r\n",
      "POST ftp://x/login HTTP/1.1\r\nHost: x\r\n", "POST ab://u:p@x:1/login?a HTTP/1.1\r\nHost: x\r\n", "POST ws://x//login HTTP/1.1\r\nHost: x\r\n",
      // An application that resolves the target as a relative reference reads `x` as the host.
      "POST //x/login HTTP/1.1\r\nHost: x\r\n", "POST ///x/login HTTP/1.1\r\nHost: x\r\n", "POST /\\x/login HTTP/1.1\r\nHost: x\r\n", "POST /\\x\\login HTTP/1.1\r\nHost: x\r\n",
      "POST /login HTTP/1.1\r\nHost:\r\n", "POST /login HTTP/1.1\r\nHost: user@x\r\n", "POST /login HTTP/1.1\r\nHost: [::1]:80\r\n",
    ];
    for (const request of requests) {
      const server = await limited(vars);
      assert.equal(await raw(server, `${request}Connection: close\r\nContent-Length: 0\r\n\r\n`), "200", request);
      assert.equal((await send(server.url, { method: "POST", path: "/login" })).status, 429, request);
    }
    const star = await limited({ RATE_LIMIT_GENERAL: "1,60" });
    assert.equal(await raw(star, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "200");
    assert.equal((await send(star.url)).status, 429);
  });

  it("the limiter's headers replace the application's, except on the application's own 429 and 503", async () => {
    const own = { "X-RateLimit-Limit": "9", "RateLimit-Remaining": "5" };
    const setting = (status) => (_, response) => {
      response.statusCode = status;
      for (const [name, value] of Object.entries(own)) response.setHeader(name, value);
      response.end();
    };
    const writing = (status, headers) => (_, response) => response.writeHead(status, "As It Is", headers).end("x");
    const raw = [...Object.entries(own).flat(), "Set-Cookie", "a=1", "Set-Cookie", "b=2"];
    for (const make of [{}, { make: createHttp2 }]) {
      for (const application of [setting, (status) => writing(status, own), (status) => writing(status, make.make ? own : raw)]) {
        for (const [status, expected] of [[200, ["8", "7", undefined]], [404, ["8", "7", undefined]], [429, ["9", undefined, "5"]], [503, ["9", undefined, "5"]]]) {
          const server = await limited({ RATE_LIMIT_GENERAL: "8,60" }, application(status), make);
          const answer = await (make.make ? getHttp2(server) : send(server.url));
          const { headers } = answer;
          assert.equal(answer.status, status);
          assert.deepEqual([headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"], headers["ratelimit-remaining"]], expected, `${status} ${application}`);
          if (headers["set-cookie"]) assert.deepEqual(headers["set-cookie"], ["a=1", "b=2"]);
        }
      }
    }
  });

  it("Access-Control-Expose-Headers lists the limiter's headers whenever the application allows other origins", async () => {
    const cors = { "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "X-Own" };
    const applications = [
      (_, response) => {
        for (const [name, value] of Object.entries(cors)) response.setHeader(name, value);
        response.end();
      },
      (_, response) => response.writeHead(200, cors).end("x"),
      (_, response) => response.writeHead(200, Object.entries(cors).flat()).end("x"),
      (_, response) => response.writeHead(429, cors).end("x"),
    ];
    for (const application of applications) {
      const { headers } = await send((await limited({ RATE_LIMIT_GENERAL: "9,60" }, application)).url);
      assert.match(headers["access-control-expose-headers"], /^X-Own, X-RateLimit-Limit, .*Retry-After$/);
    }
    const server = await limited({ RATE_LIMIT_GENERAL: "9,60" });
    assert.equal((await send(server.url)).headers["access-control-expose-headers"], undefined);
  });

  it("two middlewares work in a row, and a denial has the headers of the one that denies", async () => {
    const [first, second] = [{ RATE_LIMIT_GENERAL: "2,60" }, { RATE_LIMIT_GENERAL: "2,60" }].map((vars) => rateLimit({ env: variables(vars) }));
    const twice = (first, second) => async (request, response) => first(request, response, () => second(request, response, () => response.end("ok")));
    const server = await serve(twice(first, second));
    const tight = await serve(twice(first, rateLimit({ env: variables({ RATE_LIMIT_GENERAL: "1,60" }) })));
    servers.push(server, tight);
    assert.equal((await send(server.url)).headers["x-ratelimit-remaining"], "1");
    await send(tight.url);
    const { status, headers } = await send(tight.url);
    assert.deepEqual([status, headers["x-ratelimit-limit"]], [429, "2"], "the first middleware denies");
    const both = await serve(twice(rateLimit({ env: variables({ RATE_LIMIT_GENERAL: "9,60" }) }), rateLimit({ env: variables({ RATE_LIMIT_GENERAL: "1,60" }) })));
    servers.push(both);
    await send(both.url);
    const denied = await send(both.url);
    assert.deepEqual([denied.status, denied.headers["x-ratelimit-limit"], denied.headers["x-ratelimit-type"], denied.headers["retry-after"] > 0], [429, "1", "general", true]);
  });

  it("the control plane and its page work even if the application has already read the body", async () => {
    const server = await limited({ ADMIN_TOKEN: "an-admin-token-of-this-test", RATE_LIMIT_GENERAL: "9,60" });
    const page = await send(`${server.url}/_limiter/`);
    assert.deepEqual([page.status, page.headers["content-type"].split(";")[0]], [200, "text/html"]);
    const put = (at, body) => send(at.url, { method: "PUT", path: "/_limiter/blocked/192.0.2.1", headers: { ...ADMIN, "Content-Type": "application/json" }, body });
    assert.equal((await put(server, '{"seconds":60,"reason":"abuse"}')).json().reason, "abuse");
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    for (const size of [20_000, 1_000_000]) {
      const headers = { ...ADMIN, "Content-Type": "application/json" };
      assert.equal((await send(server.url, { method: "PUT", path: "/_limiter/blocked/192.0.2.1", headers, body: "x".repeat(size), agent })).status, 413);
      // The connection is still usable.
      assert.equal((await send(server.url, { agent })).status, 200);
    }
    agent.destroy();
    // express.json() leaves the parsed body in `request.body`.
    const limit = rateLimit({ env: variables({ ADMIN_TOKEN: "an-admin-token-of-this-test" }) });
    const behind = await serve(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      request.body = JSON.parse(Buffer.concat(chunks).toString());
      limit(request, response, () => response.end());
    });
    servers.push(behind);
    assert.equal((await put(behind, '{"seconds":60,"reason":"parsed"}')).json().reason, "parsed");
  });

  it("a preflight has its own policy, and the limiter does not read a body to recognise it", async () => {
    const server = await limited({ RATE_LIMIT_GENERAL: "1,60" }, async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      response.end(Buffer.concat(chunks));
    });
    const preflight = { Origin: "https://a.example", "Access-Control-Request-Method": "PUT" };
    for (let i = 0; i < 3; i += 1) {
      const answer = await send(server.url, { method: "OPTIONS", headers: preflight });
      assert.deepEqual([answer.status, answer.headers["x-ratelimit-type"]], [200, "preflight"]);
    }
    const withBody = await send(server.url, { method: "OPTIONS", headers: preflight, body: "whole" });
    assert.deepEqual([withBody.text(), withBody.headers["x-ratelimit-type"]], ["whole", "general"]);
  });

  it("the middleware works over HTTP/2", async () => {
    const vars = { RATE_LIMIT_GENERAL: "1,60", ADMIN_TOKEN: "an-admin-token-of-this-test" };
    const server = await limited(vars, (_, response) => response.end("ok"), { make: createHttp2 });
    const client = connectHttp2(server.url);
    const ask = async (headers, body) => {
      const stream = client.request(headers, { endStream: body === undefined });
      if (body !== undefined) stream.end(body);
      let text = "";
      const [answer] = await once(stream, "response");
      for await (const chunk of stream.setEncoding("utf8")) text += chunk;
      return [answer[":status"], text];
    };
    try {
      const preflight = { ":method": "OPTIONS", "origin": "https://a.example", "access-control-request-method": "PUT" };
      for (let i = 0; i < 3; i += 1) assert.equal((await ask(preflight))[0], 200);
      assert.deepEqual(await ask({ ":path": "/" }), [200, "ok"]);
      assert.equal((await ask({ ":path": "/" }))[0], 429);
      const [status, text] = await ask({ ":method": "PUT", ":path": "/_limiter/blocked/192.0.2.1", "authorization": ADMIN.Authorization }, '{"reason":"by HTTP/2"}');
      assert.deepEqual([status, JSON.parse(text).reason], [200, "by HTTP/2"]);
    } finally {
      client.destroy();
    }
  });

  it("an error is passed to `next` once", async () => {
    const limiter = createLimiter({ env: variables() });
    const seen = [];
    const limit = rateLimit({ limiter: { ...limiter, limit: async () => { throw new Error("out"); } } });
    const server = await serve((request, response) => limit(request, response, (error) => {
      seen.push(error?.message);
      response.end();
    }));
    servers.push(server);
    await send(server.url);
    assert.deepEqual(seen, ["out"]);
    // This limiter returns a copy of the verdict, which the middleware refuses.
    const wrapped = rateLimit({ limiter: { ...limiter, limit: async (...given) => ({ ...(await limiter.limit(...given)) }) } });
    const wrong = await serve((request, response) => wrapped(request, response, (error) => response.end(error.code)));
    servers.push(wrong);
    assert.equal((await send(wrong.url)).text(), "bad_argument");
    assert.throws(() => rateLimit({ limiter, trustProxy: 1 }), { code: "bad_argument" });
  });

  it("the README's upgrade handler limits upgrades, even when clients reset their connections", async () => {
    const readme = readFileSync(new URL("../../npm/README.md", import.meta.url), "utf8");
    const [snippet] = /^server\.on\("upgrade"[^]*?^}\);$/m.exec(readme);
    const limiter = createLimiter({ env: variables({ RATE_LIMIT_GENERAL: "1,60" }) });
    const sockets = { handleUpgrade: (_, socket) => socket.on("error", () => {}).end("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n") };
    const logged = [];
    const make = (listener) => {
      const server = createServer(listener);
      new Function("server", "limiter", "sockets", "console", snippet)(server, limiter, sockets, { error: (error) => logged.push(error) });
      return server;
    };
    const server = await serve(() => {}, { make });
    servers.push(server);
    const upgrade = "GET /chat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const { port } = new URL(server.url);
    // Many clients reset at once, so that some are gone before the server handles them.
    for (let i = 0; i < 20; i += 1) {
      const socket = connect(Number(port), "127.0.0.1", () => socket.write(upgrade, () => socket.resetAndDestroy())).on("error", () => {});
    }
    for (const end = performance.now() + 30; performance.now() < end; ); // blocks the event loop
    await eventually(async () => assert.equal(await raw(server, upgrade), "429"));
    assert.ok(logged.every(({ code }) => code !== "no_address"), `${logged}`);
    const other = createLimiter({ env: variables({ RATE_LIMIT_GENERAL: "9,60" }) });
    assert.equal((await other.limit(new Request(server.url), { address: "192.0.2.1" })).allowed, true, "the process should still work");
  });

  it("a client that resets before its request is handled causes no configuration error", async () => {
    const limiter = createLimiter({ env: variables({ RATE_LIMIT_GENERAL: "1000,60", RATE_LIMIT_UNKNOWN: "off" }) });
    const limit = rateLimit({ limiter });
    const errors = [];
    const server = await serve((request, response) => limit(request, response, (error) => {
      if (error) errors.push(error.code);
      response.end();
    }));
    servers.push(server);
    const { port } = new URL(server.url);
    const clients = 50;
    for (let i = 0; i < clients; i += 1) {
      const socket = connect(Number(port), "127.0.0.1", () => socket.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n", () => socket.resetAndDestroy())).on("error", () => {});
    }
    await new Promise((resolve) => setImmediate(resolve));
    for (const end = performance.now() + 30; performance.now() < end; ); // blocks the event loop
    await eventually(async () => assert.equal((await send(server.url)).status, 200));
    assert.deepEqual(errors, []);
  });

  it("a request whose client is gone is counted but not passed to the application", async () => {
    const limiter = createLimiter({ env: variables({ RATE_LIMIT_GENERAL: "9,60", ADMIN_TOKEN: "an-admin-token-of-this-test" }) });
    const limit = rateLimit({ limiter });
    const used = async (caller) => {
      const answer = await limiter.controlPlane(new Request(`http://localhost/_limiter/usage/general/${caller}`, { headers: ADMIN }), { address: "192.0.2.1" });
      return (await answer.json()).used;
    };
    let handled = 0;
    const server = await serve((request, response) => {
      request.socket.destroy();
      limit(request, response, () => (handled += 1));
    });
    servers.push(server);
    await assert.rejects(send(server.url));
    await eventually(async () => assert.equal((await used("127.0.0.1")) + (await used("unknown")), 1));
    assert.equal(handled, 0);
  });
});

/**
 * Streams in both directions, and WebSockets. Each side withholds the rest of a body until the other side has received the
 * beginning, so a limiter that buffered whole bodies would wait for ever.
 *
 * workerd does the following with any Worker, even a one-line JavaScript one:
 * - It notices that a client has left only when it next writes to it. An origin that sends nothing does not learn of it.
 * - It ends a chunked answer that the origin breaks off as if it were whole. With `Content-Length` the client sees that it is cut.
 * - A chunked request that the client breaks off reaches a binding as if it were whole. An origin by URL sees it break off.
 * - It drops trailers in both directions. After an origin's trailers, the next request on that connection fails.
 */

import assert from "node:assert/strict";
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { after, before, describe, it } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { startOrigin } from "../harness/origin.mjs";
import { open, send } from "../harness/request.mjs";
import { ORIGIN_SETUPS } from "../harness/origin-setups.mjs";
import { within } from "../harness/within.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const HEADERS = { "CF-Connecting-IP": "192.0.2.1" };

for (const way of ORIGIN_SETUPS) {
  describe(`streams by ${way.name}`, () => {
    let origin, limiter;

    before(async () => {
      origin = await startOrigin();
      limiter = await startWorkerd(way.with(origin.url));
    });
    after(async () => {
      await limiter?.stop();
      await origin?.stop();
    });

    it("the client receives the first chunk before the origin sends the second", async () => {
      const received = deferred();
      origin.handler = async (_, response) => {
        response.writeHead(200, { "Content-Type": "application/octet-stream" });
        response.write("first");
        await received.promise;
        response.end("second");
      };
      const { response } = await within(open(limiter.url, { headers: HEADERS }), "the headers");
      const chunks = reader(response);
      assert.equal(await chunks.next(), "first");
      received.resolve();
      assert.equal(await chunks.next(), "second");
      assert.equal(await chunks.next(), undefined);
    });

    it("the client receives the headers before the origin sends any body", async () => {
      const received = deferred();
      origin.handler = async (_, response) => {
        response.writeHead(200, { "Content-Length": "4" }).flushHeaders();
        await received.promise;
        response.end("body");
      };
      const { response } = await within(open(limiter.url, { headers: HEADERS }), "the headers");
      assert.equal(response.headers["content-length"], "4");
      received.resolve();
      assert.equal(await reader(response).next(), "body");
    });

    it("the origin receives the first chunk before the client sends the second", async () => {
      const received = deferred();
      origin.handler = async (request, response) => {
        const chunks = reader(request);
        const first = await chunks.next();
        received.resolve(first);
        response.end(`${first}|${await chunks.next()}|${await chunks.next()}`);
      };
      const body = (async function* () {
        yield Buffer.from("first");
        assert.equal(await within(received.promise, "the first chunk at the origin"), "first");
        yield Buffer.from("second");
      })();
      const answer = await within(send(limiter.url, { method: "POST", headers: HEADERS, body }), "the answer");
      assert.equal(answer.text(), "first|second|undefined");
    });

    it("an answer may begin before the request's body ends", async () => {
      const answered = deferred();
      origin.handler = async (request, response) => {
        const chunks = reader(request);
        response.write(`got ${await chunks.next()};`);
        response.end(`got ${await chunks.next()}`);
      };
      const body = (async function* () {
        yield Buffer.from("a");
        await within(answered.promise, "the beginning of the answer");
        yield Buffer.from("b");
      })();
      const { response } = await within(open(limiter.url, { method: "POST", headers: HEADERS, body }), "the headers");
      const chunks = reader(response);
      assert.equal(await chunks.next(), "got a;");
      answered.resolve();
      assert.equal(await chunks.next(), "got b");
    });

    it("server-sent events arrive one by one", async () => {
      let next = deferred();
      origin.handler = async (_, response) => {
        response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
        for (let id = 1; id <= 3; id++) {
          response.write(`id: ${id}\ndata: event\n\n`);
          await next.promise;
          next = deferred();
        }
        response.end();
      };
      const { response } = await within(open(limiter.url, { headers: { ...HEADERS, Accept: "text/event-stream" } }), "the headers");
      assert.equal(response.headers["content-type"], "text/event-stream");
      const chunks = reader(response);
      for (let id = 1; id <= 3; id++) {
        assert.equal(await chunks.next(), `id: ${id}\ndata: event\n\n`);
        next.resolve();
      }
      assert.equal(await chunks.next(), undefined);
    });

    it("compressed chunks arrive one by one", async () => {
      const received = deferred();
      origin.handler = async (_, response) => {
        response.writeHead(200, { "Content-Encoding": "gzip", "Content-Type": "text/plain" });
        response.write("not really gzip");
        await received.promise;
        response.end("|nor this");
      };
      const { response } = await within(open(limiter.url, { headers: HEADERS }), "the headers");
      const chunks = reader(response);
      assert.equal(await chunks.next(), "not really gzip");
      received.resolve();
      assert.equal(await chunks.next(), "|nor this");
    });

    it("20 MB pass completely in both directions", async () => {
      const piece = Buffer.alloc(1024 * 1024, "0123456789abcdef");
      origin.handler = (request, response) => {
        request.on("data", (chunk) => response.write(chunk) || request.pause());
        response.on("drain", () => request.resume());
        request.on("end", () => response.end());
      };
      const body = (async function* () {
        for (let sent = 0; sent < 20; sent++) yield piece;
      })();
      const { response } = await within(open(limiter.url, { method: "POST", headers: HEADERS, body }), "the headers");
      let length = 0;
      for await (const chunk of response) length += chunk.length;
      assert.equal(length, 20 * piece.length);
    });

    it("the origin's stream ends when the client leaves", async () => {
      const left = deferred();
      const closed = deferred();
      origin.handler = async (_, response) => {
        response.on("close", () => closed.resolve("closed"));
        response.write("first");
        await left.promise;
        while (!response.destroyed) {
          await Promise.race([new Promise((resolve) => response.write(Buffer.alloc(64 * 1024), resolve)), closed.promise]);
        }
      };
      const { request, response } = await within(open(limiter.url, { headers: HEADERS }), "the headers");
      assert.equal(await reader(response).next(), "first");
      request.destroy();
      left.resolve();
      await within(closed.promise, "the end of the origin's connection");
    });

    it("a client sees that the origin broke off, and the Worker survives", async () => {
      const received = deferred();
      origin.handler = async (_, response) => {
        response.writeHead(200, { "Content-Length": "100" });
        response.write("first");
        await received.promise;
        response.socket.resetAndDestroy();
      };
      const { response } = await within(open(limiter.url, { headers: HEADERS }), "the headers");
      const chunks = reader(response);
      assert.equal(await chunks.next(), "first");
      received.resolve();
      await assert.rejects(chunks.next(), { code: "ECONNRESET" });

      assert.ok(limiter.alive);
      origin.handler = (_, response) => response.end("still there");
      assert.equal((await send(limiter.url, { headers: HEADERS })).text(), "still there");
    });

    it("an origin sees that the client broke off, and the Worker survives", async () => {
      const arrived = deferred();
      origin.handler = async (request, response, received) => {
        request.once("data", () => arrived.resolve(received));
        await received.body;
        response.end("whole");
      };
      const leave = new AbortController();
      const body = (async function* () {
        yield Buffer.from("first");
        await new Promise(() => {});
      })();
      const headers = { ...HEADERS, "Content-Length": "100" };
      const asked = assert.rejects(open(limiter.url, { method: "POST", headers, body, signal: leave.signal }), { name: "AbortError" });
      const { body: atOrigin } = await within(arrived.promise, "the first chunk at the origin");
      leave.abort();
      await asked;
      await assert.rejects(within(atOrigin, "the end of the body"), { code: "ECONNRESET" });

      origin.handler = (_, response) => response.end("still there");
      assert.equal((await send(limiter.url, { headers: HEADERS })).text(), "still there");
    });
  });

  describe(`limits of workerd, by ${way.name}`, () => {
    let origin, limiter;

    before(async () => {
      origin = await startOrigin();
      limiter = await startWorkerd(way.with(origin.url));
    });
    after(async () => {
      await limiter?.stop();
      await origin?.stop();
    });

    const looksWhole = way.name === "binding ORIGIN";
    it(`a chunked request that breaks off ${looksWhole ? "looks whole" : "is seen to break off"} at the origin`, async () => {
      const arrived = deferred();
      origin.handler = async (request, _, received) => {
        request.once("data", () => arrived.resolve(received));
        await received.body;
      };
      const leave = new AbortController();
      const body = (async function* () {
        yield Buffer.from("first");
        await new Promise(() => {});
      })();
      const asked = assert.rejects(open(limiter.url, { method: "POST", headers: HEADERS, body, signal: leave.signal }), { name: "AbortError" });
      const { body: atOrigin } = await within(arrived.promise, "the first chunk at the origin");
      leave.abort();
      await asked;
      const ended = within(atOrigin, "the end of the body");
      if (looksWhole) assert.equal(String(await ended), "first");
      else await assert.rejects(ended, { code: "ECONNRESET" });
    });

    it("a chunked answer that breaks off looks whole to the client", async () => {
      const received = deferred();
      origin.handler = async (_, response) => {
        response.write("first");
        await received.promise;
        response.socket.resetAndDestroy();
      };
      const { response } = await within(open(limiter.url, { headers: HEADERS }), "the headers");
      const chunks = reader(response);
      assert.equal(await chunks.next(), "first");
      received.resolve();
      assert.equal(await chunks.next(), undefined);
    });

    it("trailers are dropped in both directions", async () => {
      let trailers;
      origin.handler = async (request, response, { body }) => {
        await body;
        trailers = request.trailers;
        response.writeHead(200, { Trailer: "X-Sum" });
        response.write("body");
        response.addTrailers({ "X-Sum": "1" });
        response.end();
      };
      const request = httpRequest(`${limiter.url}/`, { method: "POST", headers: { ...HEADERS, TE: "trailers", Trailer: "X-Sum", "Transfer-Encoding": "chunked" } });
      const answered = once(request, "response");
      request.write("body");
      request.addTrailers({ "X-Sum": "1" });
      request.end();
      const [response] = await within(answered, "the headers");
      const chunks = reader(response);
      assert.equal(await chunks.next(), "body");
      assert.equal(await chunks.next(), undefined);
      assert.deepEqual([Object.keys(trailers), Object.keys(response.trailers), response.headers.trailer], [[], [], undefined]);
      assert.deepEqual([origin.last.header("trailer"), origin.last.header("te")], [undefined, undefined]);

      // workerd leaves the trailers unread on the origin's connection, so the next answer on it fails.
      origin.handler = (_, response) => response.end("whole");
      const next = [await send(limiter.url, { headers: HEADERS }), await send(limiter.url, { headers: HEADERS })];
      assert.deepEqual(next.map((answer) => answer.status), [502, 200]);
    });
  });

  describe(`WebSockets by ${way.name}`, () => {
    let origin, sockets, limiter;

    before(async () => {
      origin = await startOrigin();
      sockets = new WebSocketServer({ server: origin.server, handleProtocols: (offered) => [...offered].at(-1) });
      const { vars, ...rest } = way.with(origin.url);
      limiter = await startWorkerd({
        ...rest,
        vars: { ...vars, ORIGIN_SECRET: "a-secret-of-the-origin", RATE_LIMIT_NARROW: "1,3600", RATE_LIMIT_ROUTES: [{ path: "/narrow", policies: ["narrow"] }] },
      });
    });
    after(async () => {
      await limiter?.stop();
      for (const socket of sockets?.clients ?? []) socket.terminate();
      await origin?.stop();
    });

    const connect = (path, protocols = []) => new WebSocket(`ws://127.0.0.1:${limiter.port}${path}`, protocols, { headers: HEADERS });

    it("text, binary data, 900 kB, a close code and a reason pass in both directions", async () => {
      const accepted = within(once(sockets, "connection"), "the connection at the origin");
      const client = connect("/socket?x=%20");
      const upgraded = once(client, "upgrade");
      await within(once(client, "open"), "the open socket");
      const [[server, request], [response]] = await Promise.all([accepted, upgraded]);
      assert.equal(request.url, "/socket?x=%20");
      assert.equal(request.headers["x-edge-limiter-ip"], "192.0.2.1");
      assert.equal(request.headers["x-edge-limiter-secret"], "a-secret-of-the-origin");
      assert.equal(response.statusCode, 101);

      server.on("message", (data, isBinary) => server.send(data, { binary: isBinary }));
      for (const sent of ["héllo", Buffer.from([0, 255, 128]), Buffer.alloc(900_000, 7)]) {
        const echoed = once(client, "message");
        client.send(sent);
        const [data, isBinary] = await within(echoed, "the echo");
        assert.equal(isBinary, Buffer.isBuffer(sent));
        assert.ok(Buffer.from(sent).equals(data));
      }

      const atOrigin = once(server, "close");
      client.close(4001, "enough");
      const [code, reason] = await within(atOrigin, "the close at the origin");
      assert.deepEqual([code, String(reason)], [4001, "enough"]);
    });

    it("the origin's close reaches the client", async () => {
      sockets.once("connection", (server) => server.close(4002, "go"));
      const client = connect("/");
      const [code, reason] = await within(once(client, "close"), "the close");
      assert.deepEqual([code, String(reason)], [4002, "go"]);
    });

    it("the subprotocol is negotiated with the origin", async () => {
      const client = connect("/", ["one", "two"]);
      await within(once(client, "open"), "the open socket");
      assert.equal(client.protocol, "two");
      client.terminate();
    });

    it("an upgrade that the origin refuses gets the origin's answer", async () => {
      sockets.shouldHandle = () => false;
      try {
        const [, response] = await within(once(connect("/"), "unexpected-response"), "the refusal");
        assert.equal(response.statusCode, 400);
        assert.equal(response.headers["x-ratelimit-type"], "general");
        response.destroy();
      } finally {
        delete sockets.shouldHandle;
      }
    });

    it("an upgrade over the limit is answered 429, and does not reach the origin", async () => {
      const first = connect("/narrow");
      await within(once(first, "open"), "the open socket");
      let reached = false;
      sockets.once("connection", () => (reached = true));
      const [, response] = await within(once(connect("/narrow"), "unexpected-response"), "the refusal");
      assert.equal(response.statusCode, 429);
      assert.equal(response.headers["x-ratelimit-remaining"], "0");
      assert.equal(reached, false);
      response.destroy();
      first.terminate();
      sockets.removeAllListeners("connection");
    });
  });
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

/** Reads a stream chunk by chunk, as text. `next` returns `undefined` after the last chunk. */
function reader(stream) {
  const chunks = stream[Symbol.asyncIterator]();
  return {
    async next() {
      const { value, done } = await within(chunks.next(), "the next chunk");
      return done ? undefined : value.toString();
    },
  };
}

/**
 * Forwarding, in the real runtime. The origin receives what the client sent, and the client receives what the origin sent, except
 * for the documented headers. The origin is reached by `ORIGIN_URL` or by the binding. forward-route.test.mjs tests the route's own origin.
 *
 * workerd does the following before the Worker sees a request, and no Worker can change it:
 * - It answers 501 to methods that it does not know (MKCALENDAR, or any invented one). It knows those of HTTP, WebDAV, DAV
 *   search and versioning, PURGE, SUBSCRIBE and so on: `HttpMethod` in capnproto's kj/compat/http.h.
 * - It resolves unescaped `.` and `..` in a path, and drops a fragment. A blank or a tab ends a target. It answers 500 to a target
 *   that is a whole URL or `*`.
 * - It drops hop-by-hop headers (RFC 9110, 7.6.1).
 */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { brotliCompressSync, gzipSync } from "node:zlib";
import { randomBytes } from "node:crypto";
import { CALLER } from "../harness/fixtures.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { raw } from "../harness/raw.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const SECRET = "a-secret-of-the-origin";
const TOKEN = "an-admin-token-of-this-test";
const VARS = {
  RATE_LIMIT_GENERAL: "100000,60", RATE_LIMIT_LOGIN: "100000,60", RATE_LIMIT_IP: "off", ADMIN_TOKEN: TOKEN,
  RATE_LIMIT_DELETIONS: "10,60",
  RATE_LIMIT_ROUTES: [{ path: "/api/login", policies: ["login"] }, { path: "/items", methods: ["DELETE"], policies: ["deletions"] }],
};

const WAYS = [
  { name: "ORIGIN_URL", base: "", with: (url) => ({ vars: { ORIGIN_URL: url } }) },
  { name: "ORIGIN_URL with a path", base: "/base", with: (url) => ({ vars: { ORIGIN_URL: `${url}/base/` } }) },
  { name: "binding ORIGIN", base: "", with: (url) => ({ services: { ORIGIN: url } }) },
];

for (const way of WAYS) {
  describe(`forwarding by ${way.name}`, () => {
    let origin, limiter;

    before(async () => {
      origin = await startOrigin();
      const { vars, services } = way.with(origin.url);
      limiter = await startWorkerd({ vars: { ...VARS, ...vars, ORIGIN_SECRET: SECRET }, services });
    });
    after(async () => {
      await limiter?.stop();
      await origin?.stop();
    });

    /** Sends one request through the limiter. Returns what the client and the origin received. */
    async function pass(options = {}, handler = (_, response) => response.end("origin\n")) {
      origin.handler = handler;
      const before = origin.requests.length;
      const answer = await send(limiter.url, { path: "/", ...options, headers: { "CF-Connecting-IP": CALLER, ...options.headers } });
      assert.equal(origin.requests.length, before + 1, `the request was not forwarded exactly once: ${answer.status} ${answer.text()}`);
      return { answer, received: origin.last };
    }

    for (const method of ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND", "REPORT", "PURGE", "TRACE"]) {
      it(`a ${method} request reaches the origin as ${method}`, async () => {
        const { answer, received } = await pass({ method, path: "/m" });
        assert.equal(answer.status, 200);
        assert.equal(received.method, method);
        assert.equal((await received.body).length, 0);
        assert.equal(answer.text(), method === "HEAD" ? "" : "origin\n");
      });
    }

    for (const path of [
      "/a%20b/%2F/?x=1&x=2&y=%26",
      "//double//",
      "/UPPER",
      "/?",
      "/x?",
      "/%C3%BC/%e2%82%ac?q=%c3%bc",
      "/%41%7e;b=c,d",
      "/%?%zz",
      "/..%2fb",
      "//evil.example/x",
      "/[x]:@!$&'()*+,",
      "/a?b?c/../d",
      `/${"p".repeat(4000)}?${"q".repeat(8000)}`,
    ]) {
      it(`the path and query ${path.slice(0, 40)} arrive unchanged`, async () => {
        const { received } = await pass({ path });
        assert.equal(received.url, way.base + path);
      });
    }

    it("no path leaves the path of ORIGIN_URL", async () => {
      for (const path of ["/../x?q", "/%2e%2e/x?q", "/.%2E/%2e%2e/x?q", "/a/%2e%2e/%2e%2e/x?q", "/\\..\\%2e%2e\\x?q"]) {
        const { received } = await pass({ path });
        assert.ok(received.url.startsWith(`${way.base}/`), `${path} became ${received.url}`);
        // The path is resolved before it is matched with routes, as every URL parser resolves it.
        assert.equal(received.url, `${way.base}/x?q`);
      }
    });

    it("a path with characters that URL parsers strip or escape is matched with routes as the origin receives it", async () => {
      for (const [target, url] of [
        ["/api/login\x1f", "/api/login"], ["/api\\login", "/api/login"], ["/a\x01b?c\x01d", "/a%01b?c%01d"],
        ['/"<>^`{}|\'?"<>', "/%22%3C%3E^%60%7B%7D|'?%22%3C%3E"],
      ]) {
        const { status, text } = await raw(limiter, [`GET ${target} HTTP/1.1`, `CF-Connecting-IP: ${CALLER}`]);
        assert.equal(status, 200, target);
        assert.equal(decodeURI(origin.last.url), decodeURI(way.base + url), target);
        assert.match(text, /x-ratelimit-type: (\w+)/i);
        const [, policy] = /x-ratelimit-type: (\w+)/i.exec(text);
        assert.equal(policy, url === "/api/login" ? "login" : "general", target);
      }
    });

    it("an invalid Host leaves the path unchanged", async () => {
      for (const host of ["a b", "[::1", "a:b", "%"]) {
        const before = origin.requests.length;
        const { status } = await raw(limiter, ["GET /a/b?c HTTP/1.1", `Host: ${host}`, `CF-Connecting-IP: ${CALLER}`]);
        // The platform or a binding may refuse such a request.
        if (origin.requests.length > before) assert.equal(origin.last.url, `${way.base}/a/b?c`, host);
        else assert.ok(status >= 400, `${host}: ${status}`);
      }
      assert.ok(limiter.alive);
    });

    it("no other spelling of /_limiter reaches the origin", async () => {
      const before = origin.requests.length;
      for (const path of [
        "//_limiter/health", "/_LIMITER/health", "/%5flimiter/events", "/_limiter%2fevents", "/x%2f..%2f_limiter", "\\_limiter", "/\\_limiter/x",
        "/;a/_limiter", "/_limiter;a/health", "/_limiter\x1f",
      ]) {
        const { status, text } = await raw(limiter, [`GET ${path} HTTP/1.1`, `CF-Connecting-IP: ${CALLER}`, `Authorization: Bearer ${TOKEN}`]);
        // The platform refuses targets that do not begin with a slash.
        if (path.startsWith("/")) assert.equal(status, 404, path);
        assert.ok(!text.includes(TOKEN));
      }
      assert.equal(origin.requests.length, before);
    });

    it("the limiter's own tokens do not reach the origin, and an application's tokens do", async () => {
      const basic = (text) => `Basic ${Buffer.from(text).toString("base64")}`;
      for (const own of [`Bearer ${TOKEN}`, `bearer   ${SECRET}`, TOKEN, basic(`prometheus:${TOKEN}`)]) {
        const { received } = await pass({ headers: { Authorization: own } });
        assert.equal(received.header("authorization"), undefined, own);
        assert.ok(!received.rawHeaders.some((value) => value.includes(TOKEN)));
      }
      for (const other of ["Bearer of.the.application", basic("user:password")]) {
        const { received } = await pass({ headers: { Authorization: other } });
        assert.equal(received.header("authorization"), other);
      }
    });

    it("a body of 1 MB arrives unchanged, with Content-Length", async () => {
      const body = randomBytes(1024 * 1024);
      const { received } = await pass({ method: "POST", body });
      assert.ok(body.equals(await received.body));
      assert.equal(received.header("content-length"), String(body.length));
    });

    it("a body of unknown length arrives unchanged, chunked", async () => {
      const chunks = [randomBytes(300_000), randomBytes(1), randomBytes(300_000)];
      const { received } = await pass({ method: "PUT", body: (async function* () { yield* chunks; })() });
      assert.ok(Buffer.concat(chunks).equals(await received.body));
      assert.equal(received.header("transfer-encoding"), "chunked");
      assert.equal(received.header("content-length"), undefined);
    });

    for (const method of ["GET", "HEAD", "DELETE", "OPTIONS", "PROPFIND"]) {
      it(`a ${method} request keeps its body`, async () => {
        const { received } = await pass({ method, body: "hello" });
        assert.equal((await received.body).toString(), "hello");
        assert.equal(received.header("content-length"), "5");
      });
    }

    it("a compressed request body is not decompressed", async () => {
      const body = gzipSync("hello");
      const { received } = await pass({ method: "POST", body, headers: { "Content-Encoding": "gzip" } });
      assert.ok(body.equals(await received.body));
      assert.equal(received.header("content-encoding"), "gzip");
    });

    it("request headers arrive unchanged, except for the limiter's own", async () => {
      const kept = {
        "User-Agent": "test/1", Accept: "*/*", "Accept-Encoding": "br;q=0.5", "Accept-Language": "de", Authorization: "Bearer x",
        Cookie: "a=1; b=2", Origin: "http://o.example", Referer: "http://r.example/", "Content-Type": "text/x", Range: "bytes=0-1",
        "If-None-Match": '"e"', "X-Forwarded-For": "203.0.113.9", Forwarded: "for=203.0.113.9", "X-Real-IP": "203.0.113.8", Via: "1.1 x",
        "X-Empty": "", "X-Long": "x".repeat(8000), "Sec-Fetch-Mode": "cors", DNT: "1", "CF-Ray": "r", "X-RateLimit-Limit": "1",
      };
      const { received } = await pass({ headers: kept });
      const expected = {
        ...kept,
        "CF-Connecting-IP": CALLER,
        Host: way.with("").services ? new URL(limiter.url).host : new URL(origin.url).host,
        "X-Edge-Limiter-IP": CALLER,
        "X-Edge-Limiter-Secret": SECRET,
        "X-Forwarded-Host": new URL(limiter.url).host,
        "X-Forwarded-Proto": "http",
      };
      const { "x-edge-limiter-passed": passed, ...rest } = named(received.rawHeaders);
      assert.match(passed, /^[0-9a-f]{16}$/);
      assert.deepEqual(rest, lowerCase(expected));
    });

    it("a header that is sent twice arrives twice", async () => {
      const { received } = await pass({ headers: { "X-Twice": ["a", "b"] } });
      assert.deepEqual(received.all("x-twice"), ["a", "b"]);
    });

    it("a client's forged copies of the limiter's headers do not arrive", async () => {
      const { received } = await pass({
        headers: {
          "X-Edge-Limiter-IP": ["198.51.100.1", "198.51.100.2"], "X-EDGE-LIMITER-SECRET": "guessed", "X-Edge-Limiter-Passed": "made-up",
          "X-RateLimit-Bypass": "a-token", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "gopher",
        },
      });
      assert.equal(received.header("x-edge-limiter-ip"), CALLER);
      assert.equal(received.header("x-edge-limiter-secret"), SECRET);
      assert.equal(received.header("x-ratelimit-bypass"), undefined);
      assert.equal(received.header("x-forwarded-host"), new URL(limiter.url).host);
      assert.equal(received.header("x-forwarded-proto"), "http");
      // Each limiter appends to the loop guard, so that a chain is recognised. A forged value only shortens the chain.
      assert.match(received.header("x-edge-limiter-passed"), /^made-up, [0-9a-f]{16}$/);
    });

    it("other spellings of the limiter's headers, which some origins read as the same names, do not arrive", async () => {
      const spellings = [
        "X_Edge_Limiter_IP", "X-Edge_Limiter-IP", "X-Edge-Limiter_IP", "X.Edge.Limiter.IP", "x_edge_limiter_secret", "X_Edge-Limiter_Secret",
        "X_Edge_Limiter_Passed", "X_RateLimit_Bypass", "X_Forwarded_Host", "X-Forwarded_Proto", "CF_Connecting_IP", "X_Forwarded_For",
      ];
      const kept = { X_Own: "kept", "X-Forwarded-For": "203.0.113.9", X_Edge_Limiter_IP2: "kept" };
      const { received } = await pass({ headers: { ...Object.fromEntries(spellings.map((name) => [name, "forged"])), ...kept } });
      const { rawHeaders } = received;
      assert.ok(!rawHeaders.includes("forged"), rawHeaders.join());
      for (const [name, value] of Object.entries(kept)) assert.equal(received.header(name), value);
      assert.equal(received.header("x-edge-limiter-ip"), CALLER);
    });

    it("headers by which origins route past policies, and headers about the client's connection, do not arrive", async () => {
      const removed = [
        "X-Original-URL", "X-Rewrite-URL", "X_Rewrite_URL", "X-Original-URI", "X-Forwarded-Uri", "X-Script-Name", "X-Original-Method",
        "X-Forwarded-Method", "Proxy-Connection", "HTTP2-Settings",
      ];
      const { received } = await pass({ headers: Object.fromEntries(removed.map((name) => [name, "/admin"])) });
      assert.ok(!received.rawHeaders.includes("/admin"), received.rawHeaders.join());
    });

    it("a header that names another method arrives, and the policies of both apply", async () => {
      const { answer, received } = await pass({ method: "POST", path: "/items", headers: { "X_HTTP-Method_Override": "DELETE" } });
      assert.equal(received.header("X_HTTP-Method_Override"), "DELETE");
      assert.equal(answer.headers["x-ratelimit-limit"], "10");
      assert.equal((await pass({ method: "POST", path: "/items" })).answer.headers["x-ratelimit-limit"], "100000");
      const many = await send(limiter.url, { method: "POST", path: "/items", headers: { "CF-Connecting-IP": CALLER, "X-HTTP-Method": "A, B, C, D, E" } });
      assert.equal(many.status, 400);
    });

    it("the caller's exact address arrives: all of an IPv6 address, and an IPv4-mapped one as IPv4", async () => {
      for (const [sent, expected] of [["2001:DB8:0:0::1", "2001:db8::1"], ["::ffff:192.0.2.7", "192.0.2.7"], ["192.0.2.9:1234", "192.0.2.9"]]) {
        const { received } = await pass({ headers: { "CF-Connecting-IP": sent } });
        assert.equal(received.header("x-edge-limiter-ip"), expected);
      }
    });

    it("no address arrives for a caller without one, even if it forged the header", async () => {
      for (const address of ["", "garbage", "192.0.2.1, 192.0.2.2"]) {
        const { received } = await pass({ headers: { "CF-Connecting-IP": address, "X-Edge-Limiter-IP": "198.51.100.1" } });
        assert.equal(received.header("x-edge-limiter-ip"), undefined);
      }
    });

    it("several Set-Cookie headers stay separate", async () => {
      const cookies = ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2; Path=/", "c=3"];
      const { answer } = await pass({}, (_, response) => response.setHeader("Set-Cookie", cookies).end());
      assert.deepEqual(answer.headers["set-cookie"], cookies);
    });

    it("the origin's status and status text reach the client unchanged", async () => {
      for (const [status, text] of [
        [200, "Fine By Me"], [201, "Created"], [203, "Non-Authoritative"], [400, "Nope"], [404, "Not Here"], [418, "I'm a teapot"],
        [429, "Origin Says So"], [500, "Oops"], [503, "Later"], [599, "Own"],
      ]) {
        const { answer } = await pass({}, (_, response) => response.writeHead(status, text, { "X-From": "origin" }).end("body"));
        assert.deepEqual([answer.status, answer.statusText, answer.headers["x-from"], answer.text()], [status, text, "origin", "body"]);
      }
    });

    it("a status that the Response constructor refuses reaches the client unchanged", async () => {
      for (const status of [600, 999]) {
        const { answer } = await pass({}, (_, response) => response.writeHead(status, "Odd").end("body"));
        assert.deepEqual([answer.status, answer.text()], [status, "body"]);
      }
    });

    it("answers without a body (204, 205, 304, HEAD) reach the client", async () => {
      for (const status of [204, 205, 304]) {
        const { answer } = await pass({}, (_, response) => response.writeHead(status, { ETag: '"e"' }).end());
        assert.deepEqual([answer.status, answer.headers.etag, answer.body.length], [status, '"e"', 0]);
        assert.ok(answer.headers["x-ratelimit-limit"]);
      }
      const { answer } = await pass({ method: "HEAD" }, (_, response) => response.writeHead(200, { "Content-Length": "1234" }).end());
      assert.deepEqual([answer.status, answer.headers["content-length"], answer.body.length], [200, "1234", 0]);
    });

    it("a 206 reaches the client with its range", async () => {
      const { answer } = await pass({ headers: { Range: "bytes=2-3" } }, (_, response) =>
        response.writeHead(206, { "Content-Range": "bytes 2-3/10", "Content-Length": "2" }).end("cd"));
      assert.deepEqual(
        [answer.status, answer.headers["content-range"], answer.headers["content-length"], answer.text()],
        [206, "bytes 2-3/10", "2", "cd"],
      );
    });

    for (const [encoding, body] of [
      ["gzip", gzipSync("compressed ".repeat(1000), { level: 1 })],
      ["br", brotliCompressSync("compressed ".repeat(1000))],
      ["zstd", randomBytes(500)],
    ]) {
      it(`a body in ${encoding} reaches the client byte for byte, whatever encodings it accepts`, async () => {
        for (const accepted of [undefined, encoding, "identity"]) {
          const headers = accepted ? { "Accept-Encoding": accepted } : {};
          const { answer, received } = await pass({ headers }, (_, response) =>
            response.writeHead(200, { "Content-Encoding": encoding, "Content-Length": String(body.length) }).end(body));
          assert.equal(received.header("accept-encoding"), accepted);
          assert.equal(answer.headers["content-encoding"], encoding);
          assert.equal(answer.headers["content-length"], String(body.length));
          assert.ok(body.equals(answer.body));
        }
      });
    }

    for (const status of [201, 301, 302, 303, 307, 308]) {
      it(`a ${status} reaches the client with its Location unchanged`, async () => {
        for (const location of ["/elsewhere?x=%20", "https://elsewhere.example/", "relative", `${origin.url}0/`, `${origin.url.replace("http", "https")}/`]) {
          const { answer } = await pass({ method: "POST", body: "b" }, (_, response) => response.writeHead(status, { Location: location }).end("moved"));
          assert.deepEqual([answer.status, answer.headers.location, answer.text()], [status, location, "moved"]);
        }
      });
    }

    // A binding has no URL that a client could request, so its Location stays unchanged.
    const expectedUrl = (path) => (way.with("").services ? `${origin.url}${way.base}${path}` : `${limiter.url}${path}`);

    it("a redirect to the origin's own URL leads to the limiter", async () => {
      for (const status of [201, 301, 302, 303, 307, 308]) {
        for (const path of ["/own?x=%20&y#top", "/", "//a"]) {
          const location = `${origin.url}${way.base}${path}`;
          const { answer } = await pass({ path: "/a?b" }, (_, response) => response.writeHead(status, "Moved", { Location: location }).end("moved"));
          assert.deepEqual([answer.status, answer.statusText, answer.headers.location, answer.text()], [status, "Moved", expectedUrl(path), "moved"]);
          assert.equal(answer.headers["x-ratelimit-type"], "general");
        }
      }
    });

    it("Refresh is rewritten like a redirect, and Location of a 200 and Content-Location are not", async () => {
      const own = `${origin.url}${way.base}/own`;
      const headers = { Refresh: `3; url=${own}`, Location: own, "Content-Location": own };
      const { answer } = await pass({}, (_, response) => response.writeHead(200, headers).end());
      assert.equal(answer.headers.refresh, `3; url=${expectedUrl("/own")}`);
      assert.deepEqual([answer.headers.location, answer.headers["content-location"]], [own, own]);
    });

    it("the origin's own 429 and 503 keep their numbers, and get none of the limiter's", async () => {
      for (const status of [429, 503]) {
        for (const own of [{ "X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "0", "Retry-After": "7" }, { RateLimit: '"o";r=0;t=7', "RateLimit-Reset": "7" }, {}]) {
          const { answer } = await pass({}, (_, response) => response.writeHead(status, own).end());
          assert.equal(answer.status, status);
          const got = Object.entries(named(answer.rawHeaders)).filter(([name]) => /ratelimit|retry/.test(name));
          assert.deepEqual(Object.fromEntries(got), lowerCase(own));
        }
      }
    });

    it("the origin's own rate-limit headers are replaced", async () => {
      const { answer } = await pass({}, (_, response) => response.writeHead(200, {
        "X-RateLimit-Limit": ["1", "2"], "X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "0", "X-RateLimit-Type": "origin",
        "X-RateLimit-Shadow": "s", RateLimit: '"o";r=1', "RateLimit-Policy": '"o";q=1', "X-RateLimit-Other": "kept", "Retry-After": "9",
        "RateLimit-Limit": "10, 10;w=60", "RateLimit-Remaining": "0", "RateLimit-Reset": "7",
      }).end());
      const got = named(answer.rawHeaders);
      assert.equal(got["x-ratelimit-limit"], "100000");
      assert.equal(got["x-ratelimit-type"], "general");
      assert.notEqual(got["x-ratelimit-remaining"], "-1");
      assert.notEqual(got["x-ratelimit-reset"], "0");
      for (const name of ["x-ratelimit-shadow", "ratelimit", "ratelimit-policy", "ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"]) {
        assert.equal(got[name], undefined, name);
      }
      assert.deepEqual([got["x-ratelimit-other"], got["retry-after"]], ["kept", "9"]);
    });
  });
}

describe("forwarding with other variables", () => {
  let origin;

  before(async () => {
    origin = await startOrigin();
  });
  after(() => origin?.stop());

  async function withLimiter(vars, body) {
    const limiter = await startWorkerd({ vars: { ...VARS, ORIGIN_URL: origin.url, ...vars } });
    try {
      await body(limiter);
    } finally {
      await limiter.stop();
    }
  }

  it("removes a client's X-Edge-Limiter-Secret even without ORIGIN_SECRET", () =>
    withLimiter({}, async (limiter) => {
      await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER, "X-Edge-Limiter-Secret": "guessed" } });
      assert.equal(origin.last.header("x-edge-limiter-secret"), undefined);
    }));

  for (const [dialect, shown] of [["none", []], ["ietf", ["ratelimit", "ratelimit-policy"]]]) {
    it(`with RATE_LIMIT_HEADERS=${dialect} removes the origin's rate-limit headers, except on its own 429 and 503`, () =>
      withLimiter({ RATE_LIMIT_HEADERS: dialect }, async (limiter) => {
        const own = { "X-RateLimit-Limit": "7", RateLimit: '"o";r=1', "RateLimit-Limit": "7", "RateLimit-Remaining": "1", "RateLimit-Reset": "9" };
        for (const status of [200, 404, 429, 503]) {
          origin.handler = (_, response) => response.writeHead(status, "Own", own).end();
          const answer = await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
          assert.deepEqual([answer.status, answer.statusText], [status, "Own"]);
          const got = named(answer.rawHeaders);
          const names = Object.keys(got).filter((name) => name.includes("ratelimit")).sort();
          if (status < 429) assert.deepEqual(names, shown);
          else assert.deepEqual(names.map((name) => [name, got[name]]), Object.entries(lowerCase(own)).sort());
          assert.notEqual(status < 429 && got.ratelimit, own.RateLimit);
        }
      }));
  }

  it("with RATE_LIMIT_ENABLED=false forwards requests without the limiter's numbers", () =>
    withLimiter({ RATE_LIMIT_ENABLED: "false", RATE_LIMIT_GENERAL: "1,60" }, async (limiter) => {
      origin.handler = (request, response) => {
        if (request.url === "/own") response.setHeader("X-RateLimit-Limit", "7");
        response.end("origin\n");
      };
      for (const [path, limit] of [["/"], ["/"], ["/own", "7"]]) {
        const answer = await send(limiter.url, { path, headers: { "CF-Connecting-IP": CALLER } });
        assert.deepEqual([answer.status, answer.text(), answer.headers["x-ratelimit-limit"]], [200, "origin\n", limit]);
      }
    }));

  it("sends no denied request to the origin", () =>
    withLimiter({ RATE_LIMIT_GENERAL: "1,3600" }, async (limiter) => {
      const before = origin.requests.length;
      const statuses = [];
      for (let request = 0; request < 3; request++) {
        statuses.push((await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } })).status);
      }
      assert.deepEqual(statuses, [200, 429, 429]);
      assert.equal(origin.requests.length, before + 1);
    }));

  it("returns a redirect to the client, even if the incoming request has redirect set to follow", async () => {
    const before = `import limiter from "./index.js";
export default { fetch: (request, ...rest) => limiter.fetch(new Request(request, { redirect: "follow" }), ...rest) };`;
    const limiter = await startWorkerd({ vars: { ...VARS, ORIGIN_URL: origin.url }, modules: { "before.js": before } });
    try {
      origin.handler = (request, response) => response.writeHead(request.url === "/" ? 302 : 200, { Location: "/elsewhere" }).end();
      const answer = await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
      assert.deepEqual([answer.status, answer.headers.location], [302, "/elsewhere"]);
    } finally {
      await limiter.stop();
    }
  });

  it("answers requests itself on localhost without an origin", async () => {
    const limiter = await startWorkerd({ vars: VARS });
    try {
      const answer = await send(limiter.url, { headers: { "CF-Connecting-IP": CALLER } });
      assert.equal(answer.status, 200);
      assert.equal(answer.headers["content-type"], "application/json");
      assert.equal(answer.headers["x-ratelimit-remaining"], "99999");
      const body = answer.json();
      assert.deepEqual([body.admitted, body.caller, body.policies], [true, CALLER, ["general"]]);
    } finally {
      await limiter.stop();
    }
  });
});

/** Raw headers as an object with names in lower case, without `connection`. A name that occurs twice fails the test. */
function named(rawHeaders) {
  const headers = {};
  for (let place = 0; place < rawHeaders.length; place += 2) {
    const name = rawHeaders[place].toLowerCase();
    assert.equal(headers[name], undefined, `the header ${name} occurs twice`);
    if (name !== "connection") headers[name] = rawHeaders[place + 1];
  }
  return headers;
}

function lowerCase(headers) {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
}

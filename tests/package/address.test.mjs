/** The caller's address: the platform supplies it, and a header that a client can write never changes it. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, it } from "node:test";
import { send } from "../harness/request.mjs";
import { createLimiter, rateLimit, rejects, serve, variables } from "./harness.mjs";

/** Headers with which a client may try to pass as another caller. */
const FORGED = {
  "CF-Connecting-IP": "198.51.100.1", "X-Real-IP": "198.51.100.2", "X-Forwarded-For": "198.51.100.3", "X-Client-IP": "198.51.100.4", "True-Client-IP": "198.51.100.5",
  "Forwarded": "for=198.51.100.6", "X-Edge-Limiter-IP": "198.51.100.7", "X-Vercel-Forwarded-For": "198.51.100.8", "CF-Worker": "evil.example", "Fly-Client-IP": "198.51.100.9",
};

const servers = [];
after(() => Promise.all(servers.map((server) => server.stop())));

/** Starts a server with the middleware. Its limit is one request for each caller. */
async function startNode(options = {}, vars = {}, serveOptions = {}) {
  const limited = rateLimit({ env: variables({ RATE_LIMIT_GENERAL: "1,600", ...vars }), ...options });
  const server = await serve((request, response) => limited(request, response, (error) => {
    response.statusCode = error ? 500 : 200;
    response.end(error ? error.code : "ok");
  }), serveOptions);
  servers.push(server);
  return server;
}

const ask = async (server, headers = {}) => (await send(server.url, { headers })).status;

describe("the caller's address on Node", () => {
  it("the address is the connection's, whatever headers a client sends", async () => {
    const server = await startNode();
    assert.equal(await ask(server), 200);
    assert.equal(await ask(server), 429);
    for (const [name, value] of Object.entries(FORGED)) assert.equal(await ask(server, { [name]: value }), 429, name);
    assert.equal(await ask(server, FORGED), 429);
  });

  it("the address is read from the right of X-Forwarded-For behind trustProxy proxies", async () => {
    const cases = [
      // trustProxy, X-Forwarded-For, the address whose quota is charged
      [1, "203.0.113.1", "203.0.113.1"], [1, "198.51.100.3, 203.0.113.1", "203.0.113.1"], [1, "198.51.100.3,198.51.100.4 ,203.0.113.1", "203.0.113.1"],
      [2, "198.51.100.3, 203.0.113.1, 10.0.0.1", "203.0.113.1"], [2, "203.0.113.1", "203.0.113.1"], [1, "198.51.100.3, 203.0.113.1:4711", "203.0.113.1"],
      [1, undefined, "127.0.0.1"], [3, "", "127.0.0.1"], [1, "198.51.100.3,", "127.0.0.1"],
    ];
    for (const [trustProxy, list, charged] of cases) {
      const env = variables({ RATE_LIMIT_GENERAL: "1,600" });
      const limiter = createLimiter({ env, trustProxy });
      const headers = list === undefined ? {} : { "X-Forwarded-For": list };
      await limiter.limit(new Request("http://localhost/", { headers }), { address: "127.0.0.1" });
      assert.equal((await limiter.usage("general", charged)).used, 1, `trustProxy ${trustProxy}, X-Forwarded-For ${list}`);
    }
  });

  it("the address comes from CLIENT_IP_HEADER, and all callers share a quota if that header is not usable", async () => {
    const named = await startNode({}, { CLIENT_IP_HEADER: "X-Real-IP" });
    assert.equal(await ask(named, { "X-Real-IP": "203.0.113.1" }), 200);
    assert.equal(await ask(named, { ...FORGED, "X-Real-IP": "203.0.113.1" }), 429);
    // Misconfigured: no header that a client writes may tell callers apart.
    for (const CLIENT_IP_HEADER of ["X-Forwarded-For", "no header"]) {
      const wrong = await startNode({}, { CLIENT_IP_HEADER });
      const answers = [];
      for (let i = 0; i < 8; i += 1) answers.push(await ask(wrong, { "CF-Connecting-IP": `198.51.100.${i}`, "X-Forwarded-For": `198.51.100.${i}` }));
      assert.ok(answers.includes(429), answers.join());
    }
  });

  it("a request on a Unix socket fails with no_address unless trustProxy is set", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-"));
    const overSocket = async (options, list) => {
      const file = path.join(folder, `${servers.length}`);
      await startNode(options, {}, { listen: { path: file } });
      return new Promise((resolve, reject) => {
        const socket = connect(file, () => socket.end(`GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n${list ? `X-Forwarded-For: ${list}\r\n` : ""}\r\n`));
        let text = "";
        socket.on("data", (chunk) => (text += chunk)).on("end", () => resolve(text)).on("error", reject);
      });
    };
    try {
      assert.match(await overSocket({}), /^HTTP\/1.1 500 [^]*no_address/);
      assert.match(await overSocket({ trustProxy: 1 }, "203.0.113.1"), /^HTTP\/1.1 200 /);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("the caller's address on Vercel", () => {
  it("the address is x-real-ip, which Vercel sets", async () => {
    const limiter = createLimiter({ env: variables({ VERCEL: "1", RATE_LIMIT_GENERAL: "1,600" }), waitUntil: () => {} });
    const limit = (headers, options) => limiter.limit(new Request("https://shop.example/", { headers }), options);
    assert.equal((await limit({ ...FORGED, "X-Real-IP": "203.0.113.1" })).allowed, true);
    assert.equal((await limit({ "x-real-ip": "203.0.113.1", "x-forwarded-for": "198.51.100.9" })).allowed, false);
    // On Vercel the connection's address is Vercel's own.
    assert.equal((await limit({ "x-real-ip": "203.0.113.1" }, { address: "10.0.0.1" })).allowed, false);
  });

  it("the middleware for Node reads x-real-ip as well", async () => {
    const server = await startNode({ waitUntil: () => {} }, { VERCEL: "1" });
    assert.equal(await ask(server, { "X-Real-IP": "203.0.113.1" }), 200);
    assert.equal(await ask(server, { ...FORGED, "X-Real-IP": "203.0.113.1" }), 429);
    assert.equal(await ask(server, { "X-Real-IP": "203.0.113.2" }), 200);
  });
});

describe("an unusable CLIENT_IP_HEADER on Vercel", () => {
  it("all callers share a quota, and no header that a client can write tells them apart", async () => {
    for (const CLIENT_IP_HEADER of ["X-Forwarded-For", "no header"]) {
      const limiter = createLimiter({ env: variables({ VERCEL: "1", CLIENT_IP_HEADER, RATE_LIMIT_GENERAL: "1,600" }), waitUntil: () => {} });
      const answers = [];
      for (let i = 0; i < 8; i += 1) {
        const headers = { "CF-Connecting-IP": `198.51.100.${i}`, "X-Forwarded-For": `198.51.100.${i}` };
        answers.push((await limiter.limit(new Request("https://shop.example/", { headers }))).status);
      }
      assert.ok(answers.includes(429), answers.join());
      assert.equal((await limiter.usage("general", "198.51.100.3")).used, 0);
    }
  });
});

describe("a platform that supplies no address", () => {
  it("the error names CLIENT_IP_HEADER, whatever headers a client sends", async () => {
    const limiter = createLimiter({ env: variables() });
    for (const headers of [{}, FORGED]) {
      for (const address of [undefined, null]) {
        const error = await rejects(limiter.limit(new Request("http://localhost/", { headers }), { address }), "no_address");
        assert.match(error.message, /CLIENT_IP_HEADER/);
      }
      await rejects(limiter.limit(new Request("http://localhost/", { headers }), { address: { ip: "192.0.2.1" } }), "bad_argument");
    }
  });
});

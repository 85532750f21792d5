/** Who the caller is: by the platform's word, and never by a header that a client can write. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, describe, it } from "node:test";
import { send } from "../harness/request.mjs";
import { createLimiter, rateLimit, rejects, serve, variables } from "./harness.mjs";

/** What a client may try to be taken for. */
const FORGED = {
  "CF-Connecting-IP": "198.51.100.1", "X-Real-IP": "198.51.100.2", "X-Forwarded-For": "198.51.100.3", "X-Client-IP": "198.51.100.4", "True-Client-IP": "198.51.100.5",
  "Forwarded": "for=198.51.100.6", "X-Edge-Limiter-IP": "198.51.100.7", "X-Vercel-Forwarded-For": "198.51.100.8", "CF-Worker": "evil.example", "Fly-Client-IP": "198.51.100.9",
};

const servers = [];
after(() => Promise.all(servers.map((server) => server.stop())));

/** A server with the middleware; one use is left to each caller. */
async function node(options = {}, vars = {}, how = {}) {
  const limited = rateLimit({ env: variables({ RATE_LIMIT_GENERAL: "1,600", ...vars }), ...options });
  const server = await serve((request, response) => limited(request, response, (error) => {
    response.statusCode = error ? 500 : 200;
    response.end(error ? error.code : "ok");
  }), how);
  servers.push(server);
  return server;
}

const ask = async (server, headers = {}) => (await send(server.url, { headers })).status;

describe("on Node", () => {
  it("is the connection's address, whatever a client sends", async () => {
    const server = await node();
    assert.equal(await ask(server), 200);
    assert.equal(await ask(server), 429);
    for (const [name, value] of Object.entries(FORGED)) assert.equal(await ask(server, { [name]: value }), 429, name);
    assert.equal(await ask(server, FORGED), 429);
  });

  it("is counted from the right behind proxies", async () => {
    const cases = [
      // proxies, X-Forwarded-For, whose quota
      [1, "203.0.113.1", "203.0.113.1"], [1, "198.51.100.3, 203.0.113.1", "203.0.113.1"], [1, "198.51.100.3,198.51.100.4 ,203.0.113.1", "203.0.113.1"],
      [2, "198.51.100.3, 203.0.113.1, 10.0.0.1", "203.0.113.1"], [2, "203.0.113.1", "203.0.113.1"], [1, "198.51.100.3, 203.0.113.1:4711", "203.0.113.1"],
      [1, undefined, "127.0.0.1"], [3, "", "127.0.0.1"], [1, "198.51.100.3,", "127.0.0.1"],
    ];
    for (const [trustProxy, list, whose] of cases) {
      const env = variables({ RATE_LIMIT_GENERAL: "1,600" });
      const limiter = createLimiter({ env, trustProxy });
      const headers = list === undefined ? {} : { "X-Forwarded-For": list };
      await limiter.limit(new Request("http://localhost/", { headers }), { address: "127.0.0.1" });
      assert.equal((await limiter.usage("general", whose)).used, 1, `${trustProxy} of ${list}`);
    }
  });

  it("is a header's where the configuration names one, and nobody's where that cannot be one", async () => {
    const named = await node({}, { CLIENT_IP_HEADER: "X-Real-IP" });
    assert.equal(await ask(named, { "X-Real-IP": "203.0.113.1" }), 200);
    assert.equal(await ask(named, { ...FORGED, "X-Real-IP": "203.0.113.1" }), 429);
    // Misconfigured: what a client writes in its place tells callers apart for nobody.
    for (const CLIENT_IP_HEADER of ["X-Forwarded-For", "no header"]) {
      const wrong = await node({}, { CLIENT_IP_HEADER });
      const answers = [];
      for (let i = 0; i < 8; i += 1) answers.push(await ask(wrong, { "CF-Connecting-IP": `198.51.100.${i}`, "X-Forwarded-For": `198.51.100.${i}` }));
      assert.ok(answers.includes(429), answers.join());
    }
  });

  it("is asked for on a Unix socket, unless a proxy in front says it", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-"));
    const overSocket = async (options, list) => {
      const file = path.join(folder, `${servers.length}`);
      await node(options, {}, { listen: { path: file } });
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

describe("on Vercel", () => {
  it("is x-real-ip, which Vercel sets", async () => {
    const limiter = createLimiter({ env: variables({ VERCEL: "1", RATE_LIMIT_GENERAL: "1,600" }), waitUntil: () => {} });
    const limit = (headers, options) => limiter.limit(new Request("https://shop.example/", { headers }), options);
    assert.equal((await limit({ ...FORGED, "X-Real-IP": "203.0.113.1" })).allowed, true);
    assert.equal((await limit({ "x-real-ip": "203.0.113.1", "x-forwarded-for": "198.51.100.9" })).allowed, false);
    // A connection's address there is Vercel's own.
    assert.equal((await limit({ "x-real-ip": "203.0.113.1" }, { address: "10.0.0.1" })).allowed, false);
  });

  it("holds for the middleware of Node as well", async () => {
    const server = await node({ waitUntil: () => {} }, { VERCEL: "1" });
    assert.equal(await ask(server, { "X-Real-IP": "203.0.113.1" }), 200);
    assert.equal(await ask(server, { ...FORGED, "X-Real-IP": "203.0.113.1" }), 429);
    assert.equal(await ask(server, { "X-Real-IP": "203.0.113.2" }), 200);
  });
});

describe("on Vercel, with a header that cannot be one", () => {
  it("is nobody's, and no header that a client can write", async () => {
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

describe("where nothing says it", () => {
  it("is an error that names CLIENT_IP_HEADER, whatever a client sends", async () => {
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

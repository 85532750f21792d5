/** Users proven by a JSON Web Token, with real keys and signatures. They have their own limits. Other requests keep their address's limit. */

import assert from "node:assert/strict";
import { createHmac, createPublicKey, createSign, generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { once } from "node:events";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, MODES, control, eventually, good, has, usage } from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { WINDOW, startShared } from "../harness/limited.mjs";
import { raw } from "../harness/raw.mjs";
import { send } from "../harness/request.mjs";

const SECRET = "a-secret-of-at-least-32-characters-of-this-test";
const RSA = generateKeyPairSync("rsa", { modulusLength: 2048 });
const EC = generateKeyPairSync("ec", { namedCurve: "P-256" });
const STRANGER = generateKeyPairSync("rsa", { modulusLength: 2048 });

const jwk = ({ publicKey }, kid) => ({ ...publicKey.export({ format: "jwk" }), kid, use: "sig" });
const encode = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");
const soon = () => Math.floor(Date.now() / 1000) + HOUR_S;

/** Signs a text with each algorithm. */
const SIGN = {
  HS256: (text, secret = SECRET) => createHmac("sha256", secret).update(text).digest("base64url"),
  RS256: (text, { privateKey } = RSA) => createSign("sha256").update(text).sign(privateKey, "base64url"),
  ES256: (text, { privateKey } = EC) => createSign("sha256").update(text).sign({ key: privateKey, dsaEncoding: "ieee-p1363" }, "base64url"),
};

/** Returns a token of `sub`. */
function token(sub, { alg = "HS256", header = {}, claims = {}, key } = {}) {
  const signed = `${encode({ alg, typ: "JWT", ...header })}.${encode({ sub, iss: "https://id.example", aud: "shop", exp: soon(), ...claims })}`;
  return `${signed}.${SIGN[alg](signed, key)}`;
}

const VARS = {
  ADMIN_TOKEN,
  RATE_LIMIT_IP: "off",
  RATE_LIMIT_GENERAL: `3,${WINDOW}`,
  RATE_LIMIT_POLICIES: { general: { authenticated: 10 } },
  RATE_LIMIT_JWT_ISSUER: "https://id.example",
  RATE_LIMIT_JWT_AUDIENCE: "shop",
};
const HMAC = { ...VARS, RATE_LIMIT_JWT_SECRET: SECRET };
const PUBLIC = { ...VARS, RATE_LIMIT_JWT_KEYS: { keys: [jwk(RSA, "rsa"), jwk(EC, "ec")] } };

/** An identity provider on loopback that publishes `keys`. `asked` counts its requests. A test may replace `answer`. */
async function startProvider() {
  const provider = {
    keys: [], asked: 0,
    answer: (response) => response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ keys: provider.keys })),
  };
  const server = createServer((request, response) => {
    provider.asked += 1;
    provider.answer(response, request);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  provider.url = `http://127.0.0.1:${server.address().port}/keys`;
  provider.stop = () => {
    server.closeAllConnections();
    server.close();
  };
  return provider;
}

describe("proven users", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  function request(limiter, caller, bearer, { path = "/", headers = {} } = {}) {
    const authorization = bearer === undefined ? {} : { Authorization: `Bearer ${bearer}` };
    return send(limiter.url, { path, headers: { "CF-Connecting-IP": caller, ...authorization, ...headers } });
  }

  /** The limit in a request's answer. It shows whether the user is proven. */
  async function limit(limiter, caller, bearer, options) {
    return Number((await request(limiter, caller, bearer, options)).headers["x-ratelimit-limit"]);
  }

  async function admitted(limiter, caller, bearer, times) {
    let count = 0;
    for (let i = 0; i < times; i++) count += Number((await request(limiter, caller, bearer)).status === 200);
    return count;
  }

  for (const [mode, { vars: own, scope }] of Object.entries(MODES)) {
    it(`each user has one quota of the \`authenticated\` limit at every address, in ${mode}`, async () => {
      const limiter = await shared.limiter({ ...HMAC, ...own });
      assert.equal(await admitted(limiter, "192.0.2.1", undefined, 5), 3);
      assert.equal(await admitted(limiter, "192.0.2.1", token("alice"), 6), 6, "the user has more than the address's limit");
      assert.equal(await admitted(limiter, "192.0.2.2", token("alice"), 6), 4, "the user has one quota at both addresses");
      assert.equal(await admitted(limiter, "192.0.2.2", undefined, 5), 3, "the user does not spend the address's quota");
      assert.equal(await admitted(limiter, "192.0.2.1", token("bob"), 12), 10, "a second user behind the address has a separate quota");
      has(await good(limiter, "GET", usage("general", "user:alice")), { scope, limit: 10, used: 10, remaining: 0 });
      has(await good(limiter, "DELETE", usage("general", "user:alice")), { reset: true });
      has(await good(limiter, "GET", usage("general", "user:alice")), { used: 0 });
      has(await good(limiter, "GET", usage("general", "user:bob")), { used: 10 });
      const { caller } = await good(limiter, "GET", usage("general", "user:bob"));
      assert.match(caller, /^user-[0-9a-f]{32}$/);
      has(await good(limiter, "GET", usage("general", caller)), { used: 10 });
      const check = await good(limiter, "POST", "check", { json: { policy: "general", identifier: "user:alice", cost: 4 } });
      has(check, { allowed: true, limit: 10, remaining: 6 });
      assert.equal(await admitted(limiter, "192.0.2.3", token("alice"), 8), 6, "a check charges the user's quota");
      has((await good(limiter, "GET", "policies")).policies.find(({ name }) => name === "general"), { key: "user", limit: 3, authenticated: 10 });
    });
  }

  it("RS256 and ES256 prove a user too, and `key = \"user\"` grants the policy's own limit", async () => {
    const limiter = await shared.limiter({ ...PUBLIC, RATE_LIMIT_POLICIES: { general: { key: "user" } } });
    for (const [alg, user] of [["RS256", "alice"], ["ES256", "bob"]]) {
      for (const header of [{}, { kid: alg === "RS256" ? "rsa" : "ec" }]) {
        const own = `${user}-${Object.keys(header)}`;
        assert.equal(await admitted(limiter, "192.0.2.1", token(own, { alg, header }), 5), 3, alg);
      }
    }
    assert.equal(await admitted(limiter, "192.0.2.1", undefined, 5), 3);
  });

  it("a user's denials block the user and not the address, and an address's block denies its users too", async () => {
    const limiter = await shared.limiter({ ...HMAC, RATE_LIMIT_GENERAL: `3,${WINDOW},600` });
    assert.equal(await admitted(limiter, "192.0.2.1", token("alice"), 12), 10);
    const denied = await request(limiter, "192.0.2.7", token("alice"));
    assert.deepEqual([denied.status, denied.json().blocked], [429, true]);
    assert.equal(await admitted(limiter, "192.0.2.1", undefined, 1), 1);
    await good(limiter, "PUT", "blocked/192.0.2.1", { json: { seconds: 60 } });
    assert.equal(await admitted(limiter, "192.0.2.1", token("bob"), 2), 0);
    assert.equal(await admitted(limiter, "192.0.2.2", token("bob"), 2), 2);
  });

  for (const [mode, { vars: own }] of Object.entries(MODES)) {
    it(`a user's denials are recorded for the user, and escalate to no address, in ${mode}`, async () => {
      const limiter = await shared.limiter({ ...HMAC, ...own, RATE_LIMIT_GENERAL: `3,${WINDOW},600`, RATE_LIMIT_ESCALATION: "5,60,60" });
      assert.equal(await admitted(limiter, "192.0.2.1", token("alice"), 30), 10);
      const { caller } = await good(limiter, "GET", usage("general", "user:alice"));
      const { callers } = await good(limiter, "GET", "suspicious");
      assert.deepEqual(callers, [{ caller, denied: 20, policies: { general: 20 } }]);
      const { blocked, policies } = await good(limiter, "GET", "blocked");
      assert.deepEqual([blocked, policies.map(({ policy, caller: name }) => [policy, name])], [[], [["general", caller]]]);
      assert.equal(await admitted(limiter, "192.0.2.1", undefined, 3), 3);
      await good(limiter, "DELETE", usage("general", caller));
      assert.equal(await admitted(limiter, "192.0.2.2", token("alice"), 1), 1);
      assert.deepEqual((await good(limiter, "GET", "blocked")).policies, []);
    });
  }

  it("a token that does not verify proves nobody, and its request is limited by address", async () => {
    const limiter = await shared.limiter({ ...PUBLIC, ...HMAC });
    const good = token("alice");
    assert.equal(await limit(limiter, "192.0.2.1", good), 10);
    const [header, payload, signature] = good.split(".");
    const now = Math.floor(Date.now() / 1000);
    const pem = RSA.publicKey.export({ type: "spki", format: "pem" });
    const der = RSA.publicKey.export({ type: "spki", format: "der" });
    const publicSecrets = [pem, pem.trim(), der, JSON.stringify(jwk(RSA, "rsa")), JSON.stringify(RSA.publicKey.export({ format: "jwk" })), createPublicKey(pem).export({ format: "jwk" }).n, ""];
    const attacks = {
      "no signature": `${header}.${payload}.`,
      "two parts": `${header}.${payload}`,
      "four parts": `${good}.${signature}`,
      "another's payload": `${header}.${encode({ sub: "root", iss: "https://id.example", aud: "shop", exp: soon() })}.${signature}`,
      "another secret": token("alice", { key: "another-secret-of-at-least-32-characters" }),
      "a stranger's key": token("alice", { alg: "RS256", key: STRANGER }),
      "a stranger's key, by a known name": token("alice", { alg: "RS256", key: STRANGER, header: { kid: "rsa" } }),
      "its own key in the header": token("alice", { alg: "RS256", key: STRANGER, header: { jwk: jwk(STRANGER, "rsa") } }),
      "the URL of its own key in the header": token("alice", { alg: "RS256", key: STRANGER, header: { jku: "http://127.0.0.1:1/keys", x5u: "http://127.0.0.1:1/x" } }),
      "an unknown kid": token("alice", { alg: "RS256", header: { kid: "other" } }),
      "a kid that is a path": token("alice", { alg: "RS256", header: { kid: "../../etc/passwd" }, key: STRANGER }),
      "the EC key's name on RS256": token("alice", { alg: "RS256", header: { kid: "ec" } }),
      expired: token("alice", { claims: { exp: now - 1 } }),
      "no expiry": token("alice", { claims: { exp: undefined } }),
      "not yet": token("alice", { claims: { nbf: now + 120 } }),
      "another issuer": token("alice", { claims: { iss: "https://evil.example" } }),
      "another audience": token("alice", { claims: { aud: ["bank", "school"] } }),
      "no subject": token("alice", { claims: { sub: undefined } }),
      "a critical extension": token("alice", { header: { crit: ["exp"] } }),
      padded: `${header}.${payload}.${signature}=`,
      huge: token("alice", { claims: { filler: "x".repeat(9000) } }),
      nested: `${header}.${encode("[".repeat(3000))}.${signature}`,
      "not base64": `${header}.%%%.${signature}`,
      "not JSON": `${encode("nonsense")}.${payload}.${signature}`,
      "DER in place of r and s": (() => {
        const signed = `${encode({ alg: "ES256" })}.${payload}`;
        return `${signed}.${createSign("sha256").update(signed).sign(EC.privateKey, "base64url")}`;
      })(),
      "a blank ES256 signature": `${encode({ alg: "ES256" })}.${payload}.${Buffer.alloc(64).toString("base64url")}`,
    };
    for (const alg of ["none", "None", "NONE", "nonE"]) {
      attacks[`alg ${alg}`] = `${encode({ alg, typ: "JWT" })}.${payload}.`;
      attacks[`alg ${alg}, signed`] = `${encode({ alg, typ: "JWT" })}.${payload}.${signature}`;
    }
    publicSecrets.forEach((secret, i) => {
      for (const kid of [undefined, "rsa"]) attacks[`the public key as a secret ${i} ${kid}`] = token("alice", { header: { kid }, key: secret });
    });
    for (const [what, bearer] of Object.entries(attacks)) assert.equal(await limit(limiter, "192.0.2.2", bearer), 3, what);
    const control = token("alice", { alg: "RS256", header: { kid: "rsa" } });
    assert.equal(await limit(limiter, "192.0.2.2", control), 10);
    // All of these requests were charged to the address, which is over its limit.
    assert.equal((await request(limiter, "192.0.2.2", attacks.expired)).status, 429);
    for (const text of [limiter.logs()]) assert.ok(!text.includes(payload) && !text.includes(SECRET));
  });

  it("a token in the cookie of RATE_LIMIT_JWT_COOKIE proves a user, and no other cookie does", async () => {
    const limiter = await shared.limiter({ ...HMAC, RATE_LIMIT_JWT_COOKIE: "session" });
    const cookie = (value) => ({ headers: { Cookie: value } });
    assert.equal(await limit(limiter, "192.0.2.1", undefined, cookie(`theme=dark; session=${token("alice")}`)), 10);
    assert.equal(await limit(limiter, "192.0.2.1", undefined, cookie(`xsession=${token("alice")}`)), 3);
    assert.equal(await limit(limiter, "192.0.2.1", "nonsense", cookie(`session=${token("alice")}`)), 3, "a token in Authorization takes precedence over the cookie");
    // Two Cookie lines, which the platform joins, and a quoted value (RFC 6265, 4.1.1).
    for (const lines of [["a=b", `session=${token("alice")}`], [`session="${token("alice")}"`], ["session=tossed", `session=${token("alice")}; c=d`]]) {
      const { text } = await raw(limiter, ["GET / HTTP/1.1", "CF-Connecting-IP: 192.0.2.1", ...lines.map((line) => `Cookie: ${line}`)]);
      assert.match(text, /x-ratelimit-limit: 10\r\n/i, `the cookie in ${lines} proves nobody`);
    }
    const without = await shared.limiter(HMAC);
    assert.equal(await limit(without, "192.0.2.1", undefined, cookie(`session=${token("alice")}`)), 3);
  });

  it("a token is not verified if no policy needs a user", async () => {
    const limiter = await shared.limiter({ ...HMAC, RATE_LIMIT_POLICIES: {} });
    assert.equal(await limit(limiter, "192.0.2.1", token("alice")), 3);
    const { warnings } = await good(limiter, "GET", "health");
    assert.ok(warnings.some(({ variable }) => variable === "RATE_LIMIT_JWT_*"));
  });

  describe("with an identity provider's keys", () => {
    let provider;
    beforeEach(async () => {
      provider = await startProvider();
    });
    afterEach(() => provider.stop());
    const start = (vars) => shared.limiter({ ...VARS, RATE_LIMIT_GENERAL: `100000,${WINDOW}`, RATE_LIMIT_POLICIES: { general: { authenticated: 200000 } }, RATE_LIMIT_JWT_JWKS_URL: provider.url, ...vars });
    const PROVEN = 200000;
    const UNPROVEN = 100000;

    it("tokens are verified with keys that are fetched once", async () => {
      provider.keys = [jwk(RSA, "rsa"), jwk(EC, "ec")];
      const limiter = await start();
      assert.equal(await limit(limiter, "192.0.2.1"), UNPROVEN);
      assert.equal(provider.asked, 0, "the keys were fetched before a token needed them");
      const tokens = [token("alice", { alg: "RS256", header: { kid: "rsa" } }), token("bob", { alg: "ES256", header: { kid: "ec" } })];
      assert.equal(await limit(limiter, "192.0.2.1", tokens[0]), PROVEN);
      const limits = await Promise.all(Array.from({ length: 100 }, (_, i) => limit(limiter, "192.0.2.1", tokens[i % 2])));
      assert.deepEqual([...new Set(limits)], [PROVEN]);
      assert.equal(provider.asked, 1);
    });

    it("a flood of unknown key IDs and forged signatures fetches the keys once", async () => {
      provider.keys = [jwk(RSA, "rsa")];
      const limiter = await start();
      const forged = (i) => token("alice", { alg: "RS256", key: STRANGER, header: { kid: i % 2 ? `kid-${i}` : "rsa" }, claims: { jti: i } });
      for (let round = 0; round < 4; round++) {
        const limits = await Promise.all(Array.from({ length: 50 }, (_, i) => limit(limiter, "192.0.2.1", forged(round * 50 + i))));
        assert.deepEqual([...new Set(limits)], [UNPROVEN]);
      }
      assert.equal(provider.asked, 1);
      assert.equal(await limit(limiter, "192.0.2.1", token("alice", { alg: "RS256", header: { kid: "rsa" } })), PROVEN);
      assert.equal(provider.asked, 1);
    });

    it("a shared secret or a private key that the provider publishes is not used", async () => {
      provider.keys = [{ kty: "oct", k: encode(SECRET), kid: "hmac", alg: "HS256" }, { ...RSA.privateKey.export({ format: "jwk" }), kid: "rsa" }];
      const limiter = await start();
      assert.equal(await limit(limiter, "192.0.2.1", token("alice", { header: { kid: "hmac" } })), UNPROVEN);
      assert.equal(await limit(limiter, "192.0.2.1", token("alice", { alg: "RS256", header: { kid: "rsa" } })), UNPROVEN);
    });

    const FAILURES = {
      "that is down": [(response) => response.socket.destroy(), "the provider cannot be reached"],
      "that breaks off": [(response) => response.writeHead(200, { "Content-Length": 100 }).write("{", () => response.socket.destroy()), "the provider cannot be reached"],
      "that answers 500": [(response) => response.writeHead(500).end("planted"), "the provider answered with HTTP status 500"],
      "that answers 204": [(response) => response.writeHead(204).end(), "the provider answered with HTTP status 204"],
      "that redirects": [
        (response, request) => (request.url === "/keys" ? response.writeHead(302, { Location: "/planted" }).end() : response.writeHead(200).end(JSON.stringify({ keys: [jwk(RSA, "rsa")] }))),
        "the provider answered with HTTP status 302, and redirects are not followed",
      ],
      "that sends a document without end": [(response) => {
        response.writeHead(200);
        const more = () => response.writable && response.write(" ".repeat(16_384), more);
        more();
      }, "the key set is longer than 64 KiB"],
      "that sends half a document and waits": [(response) => response.writeHead(200).write("{"), "the key set did not arrive within 2 s"],
      "that sends no UTF-8": [(response) => response.writeHead(200).end(Buffer.from([0x22, 0xff, 0x22])), "the key set is not UTF-8"],
      "that sends nonsense": [(response) => response.writeHead(200).end("<html>planted"), "the key set is not JSON"],
      "that sends a single JWK": [(response) => response.writeHead(200).end(JSON.stringify(jwk(RSA, "rsa"))), "the key set is not a JWK Set, which has an array `keys`"],
      "that publishes no key": [(response) => response.writeHead(200).end('{"keys":[]}'), "the key set has no public key for signatures by RS256 or ES256"],
    };
    for (const [what, [answer, why]] of Object.entries(FAILURES)) {
      it(`a provider ${what} proves nobody, fails no request, and is not asked again at once`, async () => {
        provider.answer = answer;
        const limiter = await start();
        const bearer = token("alice", { alg: "RS256", header: { kid: "rsa" } });
        for (let i = 0; i < 10; i++) {
          const { status, headers } = await request(limiter, "192.0.2.1", bearer);
          assert.deepEqual([status, headers["x-ratelimit-limit"]], [200, String(UNPROVEN)]);
        }
        assert.equal(provider.asked, 1);
        await limiter.logged(/Fetching the key set of RATE_LIMIT_JWT_JWKS_URL failed/);
        assert.equal(limiter.logs().split("Fetching the key set").length, 2, "the failure is not logged exactly once");
        assert.ok(limiter.logs().includes(`Fetching the key set of RATE_LIMIT_JWT_JWKS_URL failed: ${why}; `), limiter.logs());
        const { status, key_set: known } = (await control(limiter, "GET", "health")).json();
        assert.deepEqual([status, known.why], ["degraded", why]);
        assert.ok(Math.abs(known.since - Date.now()) < 60_000);
        for (const secret of [bearer, "planted", provider.url]) assert.ok(!limiter.logs().includes(secret), `the log contains ${secret}`);
      });
    }

    it("a byte order mark before the key set is ignored", async () => {
      provider.answer = (response) => response.writeHead(200).end(`\ufeff${JSON.stringify({ keys: [jwk(RSA, "rsa")] })}`);
      const limiter = await start();
      assert.equal(await limit(limiter, "192.0.2.1", token("alice", { alg: "RS256", header: { kid: "rsa" } })), PROVEN);
      assert.equal((await control(limiter, "GET", "health")).json().status, "ok");
    });

    it("a provider that does not answer delays one request for two seconds, and no other", async () => {
      provider.answer = () => {};
      const limiter = await start();
      const bearer = token("alice", { alg: "RS256", header: { kid: "rsa" } });
      let waits = true;
      const first = limit(limiter, "192.0.2.1", bearer).finally(() => {
        waits = false;
      });
      await eventually(async () => assert.equal(provider.asked, 1));
      for (let i = 0; i < 10; i++) assert.equal(await limit(limiter, "192.0.2.2", bearer), UNPROVEN);
      assert.ok(waits, "the first request ended before the others were answered");
      assert.equal(await first, UNPROVEN);
      assert.equal(provider.asked, 1);
    });
  });

  it("health names variables that cannot prove a user, without their values", async () => {
    const limiter = await shared.limiter({ ...VARS, RATE_LIMIT_JWT_SECRET: "planted-short", RATE_LIMIT_JWT_JWKS_URL: "http://planted.example/" });
    const answer = await control(limiter, "GET", "health");
    assert.deepEqual(
      answer.json().errors.map(({ variable }) => variable).sort(),
      ["RATE_LIMIT_JWT_JWKS_URL", "RATE_LIMIT_JWT_SECRET", "RATE_LIMIT_POLICIES"],
    );
    assert.ok(!answer.text().includes("planted") && !limiter.logs().includes("planted"));
    assert.equal(await limit(limiter, "192.0.2.1", token("alice")), 3);
  });
});

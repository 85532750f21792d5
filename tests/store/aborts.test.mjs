/**
 * A client disconnects while its request does work that other requests share: a probe, a load of the blocked ranges, a fetch of the key
 * set. The work continues, and no other caller waits for it.
 */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { connect } from "node:net";
import { once } from "node:events";
import { createSign, generateKeyPairSync } from "node:crypto";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, blocked, eventually, get, good, isBlocked } from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { DOWN, WINDOW, startShared } from "../harness/limited.mjs";
import { within } from "../harness/within.mjs";

/** Longer than a client stays that disconnects at once, and much shorter than other callers would wait if the work stopped. */
const SHARED_WORK_MS = 300;
const SLOW = { kind: "delay", ms: SHARED_WORK_MS };
const ATTACKER = "192.0.2.66";

describe("clients that disconnect", () => {
  let shared, standIn;
  before(async () => {
    shared = await startShared();
    ({ standIn } = shared);
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  const calls = () => standIn.requests().count;

  /**
   * Sends a request, and resets its connection once `reached` returns true. A reset, because workerd treats a half-closed connection as
   * a client that still reads. Returns whether the client received anything.
   */
  async function abortOnce(limiter, reached, headers = {}) {
    const socket = connect(limiter.port, "127.0.0.1");
    let answered = false;
    socket.on("data", () => (answered = true));
    const closed = once(socket, "close");
    const lines = Object.entries({ Host: "limiter", "CF-Connecting-IP": ATTACKER, ...headers }).map(([name, value]) => `${name}: ${value}`);
    socket.write(["GET / HTTP/1.1", ...lines, "", ""].join("\r\n"));
    await within((async () => {
      while (!reached()) await new Promise(setImmediate);
    })(), "the moment at which the client disconnects");
    socket.resetAndDestroy();
    await closed;
    return answered;
  }

  for (const rule of ["memory", "allow", "deny"]) {
    it(`the breaker closes although the client whose request began the probe disconnects, under on_store_failure \`${rule}\``, async () => {
      const limiter = await shared.warm({
        RATE_LIMIT_GENERAL: `1000,${WINDOW}`, RATE_LIMIT_IP: "off", REDIS_MAX_RECONNECT_ATTEMPTS: 0,
        RATE_LIMIT_POLICIES: { general: { on_store_failure: rule } },
      });
      standIn.faults.set(DOWN);
      for (let failure = 1; failure <= 5; failure++) await get(limiter, "192.0.2.1");
      const before = calls();
      standIn.faults.set(SLOW);
      // One of the attacker's requests begins the probe. All are answered by the rule, before the probe ends.
      const answer = async () => (await get(limiter, ATTACKER)).status;
      await within((async () => {
        while (calls() === before) assert.equal(await answer(), rule === "deny" ? 503 : 200);
      })(), "the probe");
      for (let client = 0; client < 3; client++) await abortOnce(limiter, () => true);
      await within((async () => {
        for (;;) {
          const { status, headers } = await get(limiter, "192.0.2.1");
          if (status === 200 && headers["x-ratelimit-store"] === undefined) return;
          assert.equal(status, rule === "deny" ? 503 : 200);
        }
      })(), "a decision by Redis");
      // The first probe closed the breaker. A probe has one key, the version of the ranges; decisions and reconciliation have more.
      const probes = standIn.requests().last.slice(before - calls()).filter(({ commands: [[, , keys]] }) => keys === "1");
      assert.equal(probes.length, 1);
    });
  }

  it("the block of a range takes effect although the client whose request loads the ranges disconnects", async () => {
    const [here, there] = await Promise.all([0, 1].map(() => shared.warm({ ADMIN_TOKEN, RATE_LIMIT_IP: "off" })));
    await good(here, "PUT", blocked("192.0.2.0/24"), { json: { seconds: 6000 } });
    const before = calls();
    // Redis answers the decision at once, with the new version of the ranges. It answers the load of the ranges late.
    standIn.faults.set({ kind: "delay", ms: 0, times: 1 }, { ...SLOW, times: 1 });
    await abortOnce(there, () => calls() === before + 2);
    await eventually(() => isBlocked(there, "192.0.2.7", 6000));
    const loads = standIn.requests().last.slice(before - calls()).filter(({ commands }) => commands.flat().includes("HGETALL"));
    assert.equal(loads.length, 1, "the load that the client's request began should go on");
  });

  it("the key set is fetched although the client whose request began the fetch disconnects", async () => {
    const { privateKey, publicKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
    const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const signed = `${encode({ alg: "RS256", typ: "JWT", kid: "a" })}.${encode({ sub: "alice", exp: Math.floor(Date.now() / 1000) + HOUR_S })}`;
    const token = `${signed}.${createSign("sha256").update(signed).sign(privateKey, "base64url")}`;
    let fetched = 0;
    const provider = createServer((_, response) => {
      fetched += 1;
      const keys = [{ ...publicKey.export({ format: "jwk" }), kid: "a", use: "sig" }];
      setTimeout(() => response.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ keys })), SHARED_WORK_MS);
    });
    provider.listen(0, "127.0.0.1");
    await once(provider, "listening");
    try {
      const limiter = await shared.warm({
        RATE_LIMIT_IP: "off", RATE_LIMIT_GENERAL: `3,${WINDOW}`, RATE_LIMIT_POLICIES: { general: { authenticated: 10 } },
        RATE_LIMIT_JWT_JWKS_URL: `http://127.0.0.1:${provider.address().port}/keys`,
      });
      const headers = { Authorization: `Bearer ${token}` };
      const wasAnswered = await abortOnce(limiter, () => fetched === 1, headers);
      assert.equal(wasAnswered, false);
      await eventually(async () => {
        const { headers: answered } = await get(limiter, "192.0.2.1", "/", { headers });
        assert.equal(answered["x-ratelimit-limit"], "10");
      });
      assert.equal(fetched, 1, "the fetch that the client's request began should go on");
    } finally {
      provider.closeAllConnections();
      provider.close();
    }
  });
});

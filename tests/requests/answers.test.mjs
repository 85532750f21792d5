/**
 * Answers on the wire, in both dialects of rate-limit headers. npm packages parse them, as clients do. `src/limiter/tests/` tests
 * the values. The limiter answers requests to localhost itself. Each test has its own caller.
 */

import assert from "node:assert/strict";
import { connect } from "node:net";
import { after, before, describe, it } from "node:test";
import { parseRateLimit } from "ratelimit-header-parser";
import { parseDictionary, parseList } from "structured-headers";
import { HOUR_S } from "../harness/fixtures.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";
import { startWorkerd } from "../harness/workerd.mjs";

const VARS = {
  RATE_LIMIT_GENERAL: `3,${HOUR_S}`,
  RATE_LIMIT_IP: `50,${HOUR_S}`,
  RATE_LIMIT_AUTH: `5,${HOUR_S},600`,
  RATE_LIMIT_BUCKET: "60,60",
  RATE_LIMIT_WATCHED: `1,${HOUR_S},600`,
  RATE_LIMIT_POLICIES: {
    bucket: { algorithm: "token-bucket", burst: 2 },
    watched: { mode: "shadow" },
  },
  RATE_LIMIT_ROUTES: [
    { path: "/auth", policies: ["auth"] },
    { path: "/bucket", policies: ["bucket"] },
    { path: "/watched", policies: ["general", "watched"] },
  ],
};

let callers = 0;
/** Returns an address that no test has used yet. */
const newCaller = () => `198.18.${callers >> 8}.${callers++ & 255}`;

function client(limiter, address = newCaller()) {
  return (path = "/", options = {}) =>
    send(limiter().url, { path, ...options, headers: { ...(address === null ? {} : { "CF-Connecting-IP": address }), ...options.headers } });
}

describe("answers in the default dialect", () => {
  let limiter;
  const caller = (address) => client(() => limiter, address);

  before(async () => {
    limiter = await startWorkerd({ vars: VARS });
  });
  after(() => limiter?.stop());

  it("every answer's headers parse, and the reset is a time on the runtime's clock", async () => {
    const get = caller();
    for (const [status, remaining] of [[200, 2], [200, 1], [200, 0], [429, 0], [429, 0]]) {
      const earliest = seconds();
      const answer = await get();
      assert.deepEqual([answer.status, answer.statusText], [status, status === 429 ? "Too Many Requests" : "OK"]);
      const parsed = parseRateLimit(answer.headers);
      assert.deepEqual([parsed.limit, parsed.remaining, parsed.used], [3, remaining, 3 - remaining]);
      assert.ok(parsed.reset instanceof Date);
      // Epoch seconds. A sub-window of this sliding window is a minute long, and counts until all of it has left the window.
      const reset = Number(answer.headers["x-ratelimit-reset"]);
      assert.equal(parsed.reset.getTime(), reset * 1000);
      assert.ok(reset >= earliest + HOUR_S - 60 && reset <= seconds() + HOUR_S + 60 + 1, `the reset is ${reset - earliest} s ahead`);
    }
  });

  it("Retry-After is exact to a second on the runtime's clock", async () => {
    const get = caller();
    const started = Date.now();
    for (let request = 0; request < 2; request++) assert.equal((await get("/bucket")).status, 200);
    const denied = await get("/bucket");
    assert.deepEqual([denied.status, denied.headers["retry-after"]], [429, "1"]);
    const reset = Number(denied.headers["x-ratelimit-reset"]) * 1000;
    const admitted = await within((async () => {
      for (;;) if ((await get("/bucket")).status === 200) return Date.now();
    })(), "an admission");
    // The next token is available after one second, not before, and no later than the reset.
    assert.ok(admitted - started >= 1000, `admitted too early, after ${admitted - started} ms`);
    assert.ok(admitted <= reset + 1000, `admitted ${admitted - reset} ms after the reset`);
  });

  it("a shadow denial is in a header that parses and in the runtime's log", async () => {
    const address = newCaller();
    const get = caller(address);
    for (const verdict of ["admitted", "denied"]) {
      const answer = await get("/watched");
      assert.equal(answer.status, 200);
      const [value, parameters] = parseDictionary(answer.headers["x-ratelimit-shadow"]).get("watched");
      assert.equal(String(value), verdict);
      assert.deepEqual([...parameters], [["r", 0]]);
    }
    await limiter.logged(/shadow: policy watched would have denied 1 request of 1 caller in \d+ s/);
    assert.ok(!limiter.logs().includes(address));
  });

  it("a HEAD request gets the headers without the body", async () => {
    const get = caller();
    for (let request = 0; request < 3; request++) assert.equal((await get("/", { method: "HEAD" })).status, 200);
    const answer = await get("/", { method: "HEAD" });
    assert.deepEqual([answer.status, answer.body.length], [429, 0]);
    assert.ok(answer.headers["retry-after"]);
  });

  it("requests with hostile header values are answered", async () => {
    for (const value of ["x".repeat(10_000), "1.2.3.4, 5.6.7.8", "\xff\xfe\x80", "\xc3\xbc", "%00", "999.1.1.1", "::".repeat(500), ""]) {
      for (const name of ["CF-Connecting-IP", "Accept", "X-Edge-Limiter-Passed", "Authorization", "Host"]) {
        const answer = await caller()("/auth", { headers: { [name]: value } });
        // The runtime itself refuses some values of Host.
        assert.ok([200, 429].includes(answer.status) || (name === "Host" && answer.status < 600), `${name}: ${answer.status} ${answer.text()}`);
        // The value is not an address, so all such callers share one quota, which is never blocked.
        if (name !== "CF-Connecting-IP") continue;
        if (answer.status === 200) assert.equal(answer.json().caller, "unknown");
        else assert.equal(answer.json().blocked, false);
      }
    }
    assert.equal((await caller(null)()).json().caller, "unknown");
    assert.ok(limiter.alive);
    assert.equal((await caller()()).status, 200);
  });

  it("the limiter survives bytes that are not HTTP", async () => {
    for (const bytes of ["\x16\x03\x01\x02\x00", "GET\r\n\r\n", `GET /${"x".repeat(100_000)} HTTP/1.1\r\n\r\n`, "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n"]) {
      const socket = connect(limiter.port, "127.0.0.1");
      const closed = new Promise((resolve) => socket.on("close", resolve).on("error", () => {}).resume());
      socket.end(bytes, "latin1");
      await within(closed, "the end of the connection");
    }
    assert.equal((await caller()()).status, 200);
  });
});

describe("answers in the IETF dialect", () => {
  it("every answer's headers parse", async () => {
    const limiter = await startWorkerd({ vars: { ...VARS, RATE_LIMIT_HEADERS: "ietf" } });
    try {
      const get = client(() => limiter);
      for (const [status, remaining] of [[200, 2], [200, 1], [200, 0], [429, 0]]) {
        const answer = await get("/watched");
        assert.equal(answer.status, status);
        const policies = named(parseList(answer.headers["ratelimit-policy"]));
        assert.deepEqual(policies, { general: { q: 3, w: HOUR_S }, ip: { q: 50, w: HOUR_S } });
        const limits = named(parseList(answer.headers.ratelimit));
        assert.deepEqual(Object.keys(limits), ["general", "ip"]);
        assert.equal(limits.general.r, remaining);
        assert.ok(limits.general.t > HOUR_S - 60 && limits.general.t <= HOUR_S + 60, `t is ${limits.general.t} s`);
        assert.deepEqual([...parseDictionary(answer.headers["x-ratelimit-shadow"]).keys()], ["watched"]);
      }
    } finally {
      await limiter.stop();
    }
  });
});

const seconds = () => Math.floor(Date.now() / 1000);

/** Converts a structured list of strings with parameters to an object. */
function named(list) {
  return Object.fromEntries(list.map(([name, parameters]) => [name, Object.fromEntries(parameters)]));
}

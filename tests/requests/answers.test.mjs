/**
 * Answers on the wire, in both dialects, read as clients read them: by an npm parser for each. The origin is the limiter's
 * own answer for localhost. Every test is a caller of its own, so that none counts for another.
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
  RATE_LIMIT_BLOCKING: `2,${HOUR_S},${2 * HOUR_S}`,
  RATE_LIMIT_DEAR: `5,${HOUR_S},600`,
  RATE_LIMIT_BUCKET: "60,60",
  RATE_LIMIT_FIXED: `2,${HOUR_S}`,
  RATE_LIMIT_WATCHED: `1,${HOUR_S},600`,
  RATE_LIMIT_POLICIES: {
    bucket: { algorithm: "token-bucket", burst: 2 },
    fixed: { algorithm: "fixed-window" },
    watched: { mode: "shadow" },
  },
  RATE_LIMIT_ROUTES: [
    { path: "/blocking", policies: ["blocking"] },
    { path: "/dear", policies: ["dear"], cost: 6 },
    { path: "/affordable", policies: ["dear"] },
    { path: "/bucket", policies: ["bucket"] },
    { path: "/fixed", policies: ["fixed"] },
    { path: "/watched", policies: ["general", "watched"] },
  ],
};

let callers = 0;
/** An address that no test has used yet. */
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

  it("every answer says limit, remaining, reset and type, and parses", async () => {
    const get = caller();
    for (const [status, remaining] of [[200, 2], [200, 1], [200, 0], [429, 0], [429, 0]]) {
      const earliest = seconds();
      const answer = await get();
      assert.equal(answer.status, status);
      assert.equal(answer.headers["x-ratelimit-type"], "general");
      const parsed = parseRateLimit(answer.headers);
      assert.deepEqual([parsed.limit, parsed.remaining, parsed.used], [3, remaining, 3 - remaining]);
      assert.ok(parsed.reset instanceof Date);
      // Epoch seconds. A sub-window of the sliding window is a minute here: it counts until it has wholly left.
      const reset = Number(answer.headers["x-ratelimit-reset"]);
      assert.equal(parsed.reset.getTime(), reset * 1000);
      assert.ok(reset >= earliest + HOUR_S - 60 && reset <= seconds() + HOUR_S + 60 + 1, `${reset - earliest} s ahead`);
      assertNoHeaders(answer, ["ratelimit", "ratelimit-policy", "x-ratelimit-shadow"]);
      assert.equal(answer.headers["retry-after"] !== undefined, status === 429);
    }
  });

  it("429 says in its body what its headers say", async () => {
    const get = caller();
    for (let request = 0; request < 3; request++) await get();
    const earliest = Date.now();
    const answer = await get();
    const latest = Date.now();
    assert.deepEqual([answer.status, answer.statusText], [429, "Too Many Requests"]);
    assert.equal(answer.headers["content-type"], "application/json");
    assert.equal(answer.headers["cache-control"], "no-store");
    const body = answer.json();
    assert.deepEqual(Object.keys(body).sort(), ["blocked", "error", "limit", "message", "remaining", "reset", "retryAfter", "type"]);
    assert.deepEqual(
      [body.error, body.type, body.limit, body.remaining, body.blocked],
      ["Too many requests", "general", 3, 0, false],
    );
    assert.equal(String(body.limit), answer.headers["x-ratelimit-limit"]);
    assert.equal(String(body.remaining), answer.headers["x-ratelimit-remaining"]);
    assert.equal(String(body.reset), answer.headers["x-ratelimit-reset"]);
    assert.equal(String(body.retryAfter), answer.headers["retry-after"]);
    // Whole seconds rounded up: not before the reset, and less than a second after (itself rounded up).
    assert.ok(latest + body.retryAfter * 1000 >= body.reset * 1000 - 1000 && earliest + body.retryAfter * 1000 <= body.reset * 1000 + 1000);
    assert.equal(body.message, `Rate limit exceeded. Try again in ${inWords(body.retryAfter)}.`);
  });

  it("Retry-After is kept, to a second", async () => {
    const get = caller();
    const started = Date.now();
    for (let request = 0; request < 2; request++) assert.equal((await get("/bucket")).status, 200);
    const denied = await get("/bucket");
    assert.equal(denied.status, 429);
    // A token a second: rounded down this would be 0.
    assert.equal(denied.headers["retry-after"], "1");
    assert.equal(denied.json().message, "Rate limit exceeded. Try again in 1 second.");
    assert.equal(denied.headers["x-ratelimit-limit"], "2");
    const told = Number(denied.headers["x-ratelimit-reset"]) * 1000;
    const admitted = await within((async () => {
      for (;;) if ((await get("/bucket")).status === 200) return Date.now();
    })(), "an admission");
    // Asked all the time: the next token is there after a second and not before, and no later than was told.
    assert.ok(admitted - started >= 1000, `after ${admitted - started} ms`);
    assert.ok(admitted <= told + 1000, `${admitted - told} ms late`);
  });

  it("a fixed window's reset is its end", async () => {
    const get = caller();
    const [before, answer, after] = [Date.now(), await get("/fixed"), Date.now()];
    const ends = [before, after].map((now) => String((Math.floor(now / 1000 / HOUR_S) + 1) * HOUR_S));
    assert.ok(ends.includes(answer.headers["x-ratelimit-reset"]), answer.headers["x-ratelimit-reset"]);
  });

  it("problem+json to those who ask for it", async () => {
    const get = caller();
    for (let request = 0; request < 3; request++) await get();
    for (const accept of ["application/problem+json", "text/html, application/problem+json;q=0.5", "Application/Problem+JSON"]) {
      const answer = await get("/", { headers: { Accept: accept } });
      assert.equal(answer.status, 429);
      assert.equal(answer.headers["content-type"], "application/problem+json");
      assert.equal(answer.headers["cache-control"], "no-store");
      const body = answer.json();
      assert.equal(body.type, "https://iana.org/assignments/http-problem-types#quota-exceeded");
      assert.equal(body.status, 429);
      assert.equal(typeof body.title, "string");
      assert.match(body.detail, /^Rate limit exceeded\. Try again in /);
      assert.deepEqual(body["violated-policies"], ["general"]);
      assert.equal(String(body.retryAfter), answer.headers["retry-after"]);
      assert.equal(String(body.reset), answer.headers["x-ratelimit-reset"]);
    }
    for (const accept of ["*/*", "application/json", "application/problem+json;q=0"]) {
      assert.equal((await get("/", { headers: { Accept: accept } })).headers["content-type"], "application/json", accept);
    }
  });

  it("HEAD gets the headers without the body", async () => {
    const get = caller();
    for (let request = 0; request < 3; request++) assert.equal((await get("/", { method: "HEAD" })).status, 200);
    const answer = await get("/", { method: "HEAD" });
    assert.deepEqual([answer.status, answer.body.length], [429, 0]);
    assert.ok(answer.headers["retry-after"]);
  });

  it("a block outlasts the quota, and says that it is one", async () => {
    const get = caller();
    for (let request = 0; request < 2; request++) assert.equal((await get("/blocking")).status, 200);
    for (let request = 0; request < 3; request++) {
      const answer = await get("/blocking");
      assert.equal(answer.status, 429);
      const body = answer.json();
      assert.deepEqual([body.blocked, body.type, body.remaining], [true, "blocking", 0]);
      assert.equal(answer.headers["x-ratelimit-remaining"], "0");
      // The later of block and quota.
      const wait = Number(answer.headers["retry-after"]);
      assert.ok(wait > 2 * HOUR_S - 30 && wait <= 2 * HOUR_S, String(wait));
      assert.ok(Math.abs(body.reset - seconds() - wait) <= 2);
    }
    // The block is the policy's own.
    assert.equal((await get("/")).status, 200);
  });

  it("a cost above the limit is told that waiting will not help, consumes nothing and blocks nobody", async () => {
    const get = caller();
    for (let request = 0; request < 3; request++) {
      const answer = await get("/dear");
      assert.equal(answer.status, 429);
      assert.equal(answer.headers["retry-after"], undefined);
      const body = answer.json();
      assert.deepEqual([body.retryAfter, body.blocked, body.limit, body.remaining], [null, false, 5, 5]);
      assert.match(body.message, /costs 6 units, and the limit is 5\. Waiting will not help\./);
    }
    const answer = await get("/affordable");
    assert.deepEqual([answer.status, answer.headers["x-ratelimit-remaining"]], [200, "4"]);
  });

  it("two addresses of one /64 are one caller, of another /64 another", async () => {
    const remaining = async (address) => (await caller(address)()).headers["x-ratelimit-remaining"];
    assert.equal(await remaining("2001:db8:1:2::1"), "2");
    assert.equal(await remaining("2001:db8:1:2:ffff:ffff:ffff:ffff"), "1");
    assert.equal(await remaining("[2001:DB8:1:2::3]:443"), "0");
    assert.equal(await remaining("2001:db8:1:3::1"), "2");
    assert.equal(await remaining("203.0.113.1"), "2");
    assert.equal(await remaining("::ffff:203.0.113.1"), "1");
    assert.equal(await remaining("::ffff:cb00:7101"), "0");
  });

  it("X-Forwarded-For and its like do not make another caller", async () => {
    const get = caller();
    const seen = [];
    for (const name of ["X-Forwarded-For", "Forwarded", "X-Real-IP", "True-Client-IP", "X-Client-IP"]) {
      seen.push((await get("/", { headers: { [name]: newCaller() } })).headers["x-ratelimit-remaining"]);
    }
    assert.deepEqual(seen, ["2", "1", "0", "0", "0"]);
  });

  it("hostile header values are answered", async () => {
    for (const value of ["x".repeat(10_000), "1.2.3.4, 5.6.7.8", "\xff\xfe\x80", "\xc3\xbc", "%00", "999.1.1.1", "::".repeat(500), ""]) {
      for (const name of ["CF-Connecting-IP", "Accept", "X-Edge-Limiter-Passed", "Authorization", "Host"]) {
        const answer = await caller()("/affordable", { headers: { [name]: value } });
        // Some hosts are no URL to the runtime itself.
        assert.ok([200, 429].includes(answer.status) || (name === "Host" && answer.status < 600), `${name}: ${answer.status} ${answer.text()}`);
      }
    }
    assert.ok(limiter.alive);
    assert.equal((await caller()()).status, 200);
  });

  it("bytes that are no HTTP do not harm it", async () => {
    for (const bytes of ["\x16\x03\x01\x02\x00", "GET\r\n\r\n", `GET /${"x".repeat(100_000)} HTTP/1.1\r\n\r\n`, "GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n"]) {
      const socket = connect(limiter.port, "127.0.0.1");
      const closed = new Promise((resolve) => socket.on("close", resolve).on("error", () => {}).resume());
      socket.end(bytes, "latin1");
      await within(closed, "the end of the connection");
    }
    assert.equal((await caller()()).status, 200);
  });
});

describe("callers without an address", () => {
  let limiter;

  before(async () => {
    limiter = await startWorkerd({ vars: { ...VARS, RATE_LIMIT_GENERAL: `4,${HOUR_S},600` } });
  });
  after(() => limiter?.stop());

  it("share one bucket, are denied over it, and never blocked", async () => {
    const addresses = [null, "", "garbage", "1.2.3.4, 5.6.7.8", "x".repeat(10_000), "\xff"];
    const answers = [];
    for (const address of addresses) answers.push(await client(() => limiter, address)());
    assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 200, 200, 429, 429]);
    assert.deepEqual(answers.slice(0, 4).map((answer) => answer.headers["x-ratelimit-remaining"]), ["3", "2", "1", "0"]);
    assert.equal(answers[0].json().caller, "unknown");
    for (const denied of answers.slice(4)) assert.equal(denied.json().blocked, false);
    // The same policy does block those who have one.
    const get = client(() => limiter);
    for (let request = 0; request < 4; request++) assert.equal((await get()).status, 200);
    assert.equal((await get()).json().blocked, true);
  });
});

describe("answers in the IETF's dialect", () => {
  let limiter;
  const caller = (address) => client(() => limiter, address);

  before(async () => {
    limiter = await startWorkerd({ vars: { ...VARS, RATE_LIMIT_HEADERS: "ietf" } });
  });
  after(() => limiter?.stop());

  it("every answer lists its policies and where they stand", async () => {
    const get = caller();
    for (const [status, remaining] of [[200, 2], [200, 1], [200, 0], [429, 0]]) {
      const answer = await get();
      assert.equal(answer.status, status);
      const policies = named(parseList(answer.headers["ratelimit-policy"]));
      assert.deepEqual(policies.general, { q: 3, w: HOUR_S });
      assert.deepEqual(policies.ip, { q: 50, w: HOUR_S });
      const limits = named(parseList(answer.headers.ratelimit));
      assert.deepEqual(Object.keys(limits).sort(), ["general", "ip"]);
      assert.equal(limits.general.r, remaining);
      assert.ok(limits.general.t > HOUR_S - 60 && limits.general.t <= HOUR_S + 60, String(limits.general.t));
      assertNoHeaders(answer, ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-type", "x-ratelimit-shadow"]);
      if (status === 429) {
        assert.equal(String(limits.general.t), answer.headers["retry-after"]);
        assert.equal(limits.ip.r, 47, "a denied request consumes nothing");
        assert.equal(answer.json().retryAfter, limits.general.t);
      }
    }
  });

  it("shadow policies are in a header of their own", async () => {
    const answer = await caller()("/watched");
    assert.deepEqual(Object.keys(named(parseList(answer.headers.ratelimit))).sort(), ["general", "ip"]);
    assert.deepEqual([...parseDictionary(answer.headers["x-ratelimit-shadow"]).keys()], ["watched"]);
  });
});

describe("the dialect `none`", () => {
  it("says nothing but Retry-After", async () => {
    const limiter = await startWorkerd({ vars: { ...VARS, RATE_LIMIT_HEADERS: "none", RATE_LIMIT_GENERAL: `1,${HOUR_S}` } });
    try {
      const get = client(() => limiter);
      const names = ["ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-ratelimit-type", "x-ratelimit-shadow"];
      const [admitted, denied] = [await get("/watched"), await get("/watched")];
      assert.deepEqual([admitted.status, denied.status], [200, 429]);
      assertNoHeaders(admitted, names);
      assertNoHeaders(denied, names);
      assert.ok(Number(denied.headers["retry-after"]) > 0);
      assert.equal(denied.json().limit, 1);
    } finally {
      await limiter.stop();
    }
  });
});

describe("shadow mode", () => {
  it("reports, in header and logs, but never denies, blocks or disturbs", async () => {
    const limiter = await startWorkerd({ vars: { ...VARS, RATE_LIMIT_GENERAL: `4,${HOUR_S}` } });
    try {
      const address = newCaller();
      const get = client(() => limiter, address);
      for (const [word, remaining] of [["admitted", "3"], ["denied", "2"], ["denied", "1"], ["denied", "0"]]) {
        const answer = await get("/watched");
        assert.equal(answer.status, 200);
        // The enforced quota's numbers, though the shadow's are smaller.
        assert.deepEqual(
          [answer.headers["x-ratelimit-type"], answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]],
          ["general", "4", remaining],
        );
        assert.deepEqual(answer.json().policies.sort(), ["general", "ip"]);
        const [value, parameters] = parseDictionary(answer.headers["x-ratelimit-shadow"]).get("watched");
        assert.equal(String(value), word);
        assert.deepEqual([...parameters], [["r", 0]]);
      }
      const denied = await get("/watched");
      assert.equal(denied.status, 429);
      assert.deepEqual([denied.json().type, denied.json().blocked], ["general", false]);
      await limiter.logged(new RegExp(`watched.*${address.replaceAll(".", "\\.")}`));
    } finally {
      await limiter.stop();
    }
  });
});

const seconds = () => Math.floor(Date.now() / 1000);

function assertNoHeaders(answer, names) {
  for (const name of names) assert.equal(answer.headers[name], undefined, name);
}

/** A structured list of strings with parameters, as an object. */
function named(list) {
  return Object.fromEntries(list.map(([name, parameters]) => [name, Object.fromEntries(parameters)]));
}

/** A waiting time of around an hour. */
function inWords(wait) {
  const hours = Math.ceil(wait / HOUR_S);
  return wait < HOUR_S ? `${Math.ceil(wait / 60)} minutes` : `${hours} ${hours === 1 ? "hour" : "hours"}`;
}

/** Hostile texts, names, bodies and numbers sent to the control plane, with a right token and without one. */

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, CHECK_TOKEN, RECORDED_MS, blocked, control, eventually, get, good, has, isAdmitted, refused, usage } from "../harness/control.mjs";
import { CALLER } from "../harness/fixtures.mjs";
import { PREFIX, WINDOW, ask, startShared } from "../harness/limited.mjs";
import { raw } from "../harness/raw.mjs";

const SCRIPT = `<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;`;

describe("hostile content at the control plane", () => {
  let shared, redis, limiter;
  before(async () => {
    shared = await startShared();
    redis = await shared.standIn.redis.client();
  });
  after(() => shared?.stop());
  beforeEach(async () => {
    await shared.reset();
    limiter = await shared.limiter({
      ADMIN_TOKEN, CHECK_TOKEN, RATE_LIMIT_GENERAL: `1,${WINDOW}`, RATE_LIMIT_IP: "off", RATE_LIMIT_OPEN: "1000,60", RATE_LIMIT_ROUTES: [{ path: "/open", policies: ["open"] }],
    });
  });
  afterEach(async () => {
    assert.ok(limiter.alive);
    await good(limiter, "GET", "health");
    await isAdmitted(limiter, "198.51.100.1", "/open");
  });

  const list = async () => (await good(limiter, "GET", "blocked")).blocked;
  const check = (identifier, more) => control(limiter, "POST", "check", { json: { policy: "general", identifier, ...more }, token: CHECK_TOKEN });

  it("a reason with control characters is answered 400, and one with markup is stored and returned as JSON text", async () => {
    for (const code of [...Array(32).keys(), 0x7f]) {
      await refused(400, limiter, "PUT", blocked(CALLER), { json: { reason: `a${String.fromCharCode(code)}b` } });
    }
    for (const reason of ["a\r\nX-Evil: 1", "a\u0085b"]) await refused(400, limiter, "PUT", blocked(CALLER), { json: { reason } });
    assert.deepEqual(await list(), []);
    for (const reason of [SCRIPT, "\"}],\"x\":[{\"", "${7*7} {{7*7}} '; DROP TABLE", "%0d%0aX-Evil: 1", "\\u0000\\n", "\u{1f600} é"]) {
      for (const answer of [
        await control(limiter, "PUT", blocked(CALLER), { json: { reason } }),
        await control(limiter, "GET", blocked(CALLER)),
        await control(limiter, "GET", "blocked"),
      ]) {
        assert.equal(answer.status, 200, reason);
        assert.equal(answer.headers["x-evil"], undefined);
        const body = answer.json();
        assert.equal((body.blocked?.[0] ?? body).reason, reason);
      }
      // The blocked caller does not see the reason.
      const denied = await get(limiter, CALLER);
      assert.equal(denied.status, 429);
      assert.ok(!(denied.rawHeaders.join() + denied.text()).includes(reason), reason);
    }
  });

  it("markup and control characters in paths are recorded and returned as JSON text", async () => {
    const paths = [`/<script>alert(1)</script>`, "/%3Cscript%3E%0d%0aX-Evil:%201%00%1b[31m", "/\xff\xfe", "/%ff%fe%c0%af", `/"},{"kind":"admitted`, `/${"long/".repeat(300)}`];
    for (const [i, path] of paths.entries()) for (const status of [200, 429]) assert.equal(await ask(limiter, `192.0.2.${10 + i}`, path), status, path.slice(0, 60));
    // A client chooses the ray and the agent as well.
    for (let request = 0; request < 2; request++) {
      await raw(limiter, ["GET / HTTP/1.1", "CF-Connecting-IP: 192.0.2.9", `CF-Ray: ${SCRIPT}`, `User-Agent: ${SCRIPT}\xff`]);
    }
    const { answer, events } = await eventually(async () => {
      const answer = await control(limiter, "GET", "events?limit=1000");
      const { events } = answer.json();
      assert.equal(events.length, paths.length + 1);
      return { answer, events };
    }, RECORDED_MS);
    assert.equal(answer.headers["x-evil"], undefined);
    for (const { kind, path } of events) {
      assert.equal(kind, "denied");
      assert.ok(path.startsWith("/"));
      assert.doesNotMatch(path, /[\x00-\x1f\x7f]/);
    }
    assert.match(events.find(({ caller }) => caller === "192.0.2.10").path, /^\/(<|%3c)script(>|%3e)alert/i);
    assert.ok(answer.body.length < 40_000, `the list of events has ${answer.body.length} bytes`);
  });

  it("an identifier of any text has its own quota, and is never a key in Redis", async () => {
    const names = [
      "a:b", "a:b:blocked", ":", "*", "general:*", "?", "[a-z]", "a b", " ", "\n", "a\r\nSET x y", "\0", "{}", "{t}:x", "\\", "'", "\"", "..", "/", "%2a", "é", "e\u0301", "\u{1f600}", "\u202e", "user:alice", "id:alice",
      "constructor", "__proto__", "null", "0", "-1", "x".repeat(10_000), "x".repeat(10_001),
    ];
    for (const identifier of names) {
      const answer = await check(identifier);
      assert.equal(answer.status, 200, identifier.slice(0, 40));
      has(answer.json(), { allowed: true, remaining: 0 });
      assert.equal(answer.json().results[0].identifier, identifier);
    }
    for (const identifier of names) has((await check(identifier)).json(), { allowed: false, remaining: 0 });
    for (const key of (await redis.keys("*")).filter((key) => key.startsWith(`${PREFIX}general:`))) assert.match(key, /^t:general:[\w-]+$/);
    assert.equal((await redis.keys(`${PREFIX}general:*`)).length, names.length);
    await isAdmitted(limiter, CALLER);
    // A reset of one name leaves the others alone.
    for (const name of names.slice(0, 20)) await control(limiter, "DELETE", usage("general", name));
    has((await check("null")).json(), { allowed: false });
    const lone = await control(limiter, "POST", "check", { body: `{"policy":"general","identifier":"\\ud800"}`, token: CHECK_TOKEN });
    assert.ok([200, 400].includes(lone.status), `a lone surrogate is answered ${lone.status}`);
  });

  /** Whether a body is refused: by a 413, or, if it has more than 64 KB, by a connection that ends while the body is sent. */
  async function isRefusedAsTooLong({ method, path, body }) {
    const isLong = typeof body.length !== "number" || body.length > 64 * 1024;
    try {
      return (await control(limiter, method, path, { body })).status === 413;
    } catch (error) {
      if (isLong && ["ECONNRESET", "EPIPE"].includes(error.code)) return true;
      throw error;
    }
  }

  it("a body that is too long is refused, and the process survives", async () => {
    for (const size of [17_000, 2 ** 20]) {
      for (const body of ["x".repeat(size), JSON.stringify({ reason: "x".repeat(size) }), Buffer.alloc(size), " ".repeat(size)]) {
        for (const [method, path] of [["PUT", blocked(CALLER)], ["POST", "check"]]) {
          assert.ok(await isRefusedAsTooLong({ method, path, body }), `${method} with ${size} bytes`);
        }
      }
    }
    // Also without Content-Length, and where no body is expected.
    const chunks = async function* () {
      for (let i = 0; i < 64; i++) yield Buffer.alloc(16_384, "x");
    };
    for (const [method, path] of [["PUT", blocked(CALLER)], ["POST", "check"]]) {
      assert.ok(await isRefusedAsTooLong({ method, path, body: chunks() }), method);
    }
    // Without a token the body is not read.
    await refused(401, limiter, "PUT", blocked(CALLER), { body: "x".repeat(17_000), token: null });
    for (const [method, path] of [["GET", "blocked"], ["DELETE", blocked(CALLER)]]) {
      const { status } = await control(limiter, method, path, { body: "x".repeat(100_000) });
      assert.ok([200, 400, 413].includes(status), `${method}: ${status}`);
    }
    assert.deepEqual(await list(), []);
  });

  it("JSON made to break parsers is refused, and never causes a failure", async () => {
    const deep = (open, close, times) => open.repeat(times) + close.repeat(times);
    const refusedBodies = [
      deep("[", "]", 100_000), deep('{"a":', "}", 100_000).replace(":}", ":1}"), "[".repeat(100_000), deep("[", "]", 5000), `{"reason":${deep("[", "]", 5000)}}`, `{"checks":${deep("[", "]", 5000)}}`,
      `{"seconds":NaN}`, `{"seconds":Infinity}`, `{"seconds":-Infinity}`, `{"seconds":1e400}`, `{"seconds":${"9".repeat(5000)}}`, `{"seconds":0.${"0".repeat(5000)}1}`, `{"seconds":0x10}`, `{"seconds":1_0}`,
      `{"seconds":-0.5}`, `{"seconds":9007199254740993}`, `{"seconds":[]}`, `{"seconds":{}}`, `{"reason":[]}`, `{"__proto__":{"seconds":5}}`, `{"constructor":1}`, `{"":1}`, "{,}", `{"seconds":5,}`, `{'seconds':5}`, "// x\n{}",
      "true", "0", "[]", `"{}"`, "\u0000", "{}{}", `{"seconds":5}\u0000`, Buffer.from([0xef, 0xbb, 0xbf, 0xff]), Buffer.from('{"reason":"\xff"}', "latin1"),
    ];
    for (const body of refusedBodies) {
      for (const [method, path] of [["PUT", blocked(CALLER)], ["POST", "check"]]) {
        const answer = await control(limiter, method, path, { body });
        assert.ok([400, 413].includes(answer.status), `${method} ${String(body).slice(0, 60)}: ${answer.status}`);
      }
    }
    assert.deepEqual(await list(), []);
    // A name that occurs twice is refused: neither of its values is in force.
    const { status } = await control(limiter, "PUT", blocked(CALLER), { body: `{"seconds":60,"seconds":600}` });
    assert.equal(status, 400, "a repeated name");
    assert.deepEqual(await list(), []);
    // The Content-Type makes no difference.
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/xml", "multipart/form-data; boundary=x"]) {
      const answer = await control(limiter, "PUT", blocked(CALLER), { body: "seconds=5", headers: { "Content-Type": type } });
      assert.equal(answer.status, 400, type);
    }
  });

  it("a number out of bounds in a query or target is answered 400, and never causes a failure", async () => {
    const wrong = ["-1", "0", "1.5", "99999999999999999999", "1e3", "NaN", "Infinity", "0x10", "+1", "%201", "1%00", "", "null", "1,2", "١"];
    for (const number of wrong) {
      const sent = encodeURI(decodeURIComponent(number)).replaceAll("+", "%2B");
      for (const path of ["blocked?limit=", "events?limit=", "suspicious?limit=", "suspicious?hours="]) await refused(400, limiter, "GET", path + sent);
      if (number !== "0") await refused(400, limiter, "DELETE", `events?older_than_seconds=${sent}`);
    }
    for (const cursor of ["-1", "1.5", "0", "99999999999999999999", "NaN", "*", "%00", "%ff", "a".repeat(1000), "%7B%7D", "..%2F", "1764000000000-0", "%F0%9F%98%80"]) {
      for (const path of ["blocked", "events"]) {
        const { status } = await control(limiter, "GET", `${path}?cursor=${cursor}`);
        assert.ok([200, 400].includes(status), `${path} ${cursor}: ${status}`);
      }
    }
    for (const query of ["limit=1&limit=2", "limit[]=1", "limit", "&&&", "=", "%", "?"]) {
      const { status } = await control(limiter, "GET", `blocked?${query}`);
      assert.ok([200, 400].includes(status), `${query}: ${status}`);
    }
    for (const target of ["1".repeat(500), "192.0.2.1/99999999999999999999", "::/18446744073709551616", "1.1.1.1/1e1", "%25", "192.0.2.1/+24", "192.0.2.1/024", ":".repeat(200)]) {
      for (const method of ["GET", "PUT", "DELETE"]) await refused(400, limiter, method, blocked(target));
    }
    assert.deepEqual(await list(), []);
  });
});

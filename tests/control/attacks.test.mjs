/** Attacks on access to the control plane: tokens, paths, methods, origins, and secrets in its answers and logs. */

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import {
  ADMIN_TOKEN, BYPASS_TOKEN, CHECK_TOKEN, MODES, OPERATOR, RECORDED_MS, blocked, control, eventually, get, good, has, isAdmitted, isBlocked, refused, usage,
} from "../harness/control.mjs";
import { DOWN, startShared } from "../harness/limited.mjs";
import { raw } from "../harness/raw.mjs";
import { send } from "../harness/request.mjs";

const VICTIM = "192.0.2.1";

/** Every call that needs a token. */
const CALLS = [
  ["GET", "blocked"], ["GET", "blocked/192.0.2.1"], ["PUT", "blocked/192.0.2.2"], ["DELETE", "blocked/192.0.2.1"], ["GET", "events"], ["DELETE", "events?older_than_seconds=1"],
  ["GET", "suspicious"], ["GET", "policies"], ["GET", "usage/general/192.0.2.1"], ["DELETE", "usage/general/192.0.2.1"], ["POST", "check"],
];

describe("attacks on the control plane", () => {
  let shared, limiter;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(async () => {
    await shared.reset();
    limiter = await start();
    await good(limiter, "PUT", blocked(VICTIM), { json: { reason: "planted-reason" } });
  });
  afterEach(() => assert.ok(limiter.alive));

  const start = (vars) => shared.limiter({
    ADMIN_TOKEN, CHECK_TOKEN, RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN, RATE_LIMIT_IP: "off", RATE_LIMIT_GENERAL: "1000,60", RATE_LIMIT_ADMIN: "100000,60", ...vars,
  });

  /** Asserts that the attack changed nothing: the victim is still blocked, and nobody else is. */
  async function assertUnchanged() {
    const list = await good(limiter, "GET", "blocked");
    assert.deepEqual(list.blocked.map(({ target, reason }) => [target, reason]), [[VICTIM, "planted-reason"]]);
    await isBlocked(limiter, VICTIM, null);
    await isAdmitted(limiter, "192.0.2.2");
  }

  /** Asserts that an answer reveals nothing that the control plane knows. */
  function assertRevealsNothing({ status, text }, what) {
    assert.ok(status !== 500, `${what}: ${status}`);
    // The request was not for the control plane, so the built-in origin answered.
    if (text.startsWith('{"admitted":true,')) return;
    assert.doesNotMatch(text, /planted-reason|"scope"|"lifted"|"policies"|"reset":true|"allowed"/, what);
  }

  it("every call without a right token is answered 401", async () => {
    const wrong = [
      undefined, "", "Bearer", "Bearer ", "bearer", `Basic ${ADMIN_TOKEN}`, `Basic ${Buffer.from(`admin:${ADMIN_TOKEN}`).toString("base64")}`, `Token ${ADMIN_TOKEN}`, ADMIN_TOKEN,
      "Bearer undefined", "Bearer null", "Bearer true", "Bearer *", `Bearer ${ADMIN_TOKEN.slice(0, -1)}`, `Bearer ${ADMIN_TOKEN}x`, `Bearer ${ADMIN_TOKEN.toUpperCase()}`,
      `Bearer ${ADMIN_TOKEN} ${ADMIN_TOKEN}`, `Bearer ${ADMIN_TOKEN},${ADMIN_TOKEN}`, `Bearer "${ADMIN_TOKEN}"`, `Bearer ${"x".repeat(10_000)}`, `Bearer ${ADMIN_TOKEN.repeat(400)}`,
      "Bearer \xff\xfe", `Bearer ${ADMIN_TOKEN}\xe9`, `Bearer ${BYPASS_TOKEN}`, `Bearer ${shared.standIn.token}`,
    ];
    for (const [i, Authorization] of wrong.entries()) {
      for (const [method, path] of CALLS) {
        const options = { token: null, from: `10.0.${i}.1`, headers: Authorization === undefined ? {} : { Authorization } };
        const answer = await refused(401, limiter, method, path, options);
        assert.match(answer.headers["www-authenticate"], /^Bearer realm="edge-limiter"(, error="invalid_token")?$/);
        assertRevealsNothing({ status: answer.status, text: answer.text() }, `${method} ${path} ${Authorization}`);
      }
    }
    // Neither does a right token work in a query or another header.
    for (const path of [`blocked?token=${ADMIN_TOKEN}`, `blocked?access_token=${ADMIN_TOKEN}`, `blocked?authorization=Bearer%20${ADMIN_TOKEN}`]) {
      await refused(401, limiter, "GET", path, { token: null });
    }
    for (const headers of [{ Cookie: `token=${ADMIN_TOKEN}` }, { "X-Admin-Token": ADMIN_TOKEN }, { "Proxy-Authorization": `Bearer ${ADMIN_TOKEN}` }]) {
      await refused(401, limiter, "GET", "blocked", { token: null, headers });
    }
    await assertUnchanged();
  });

  it("the case of the scheme and blanks around the token make no difference", async () => {
    for (const [before, after] of [["bearer ", ""], ["BEARER ", ""], ["Bearer  ", ""], ["Bearer ", " \t"], ["  Bearer\t", ""]]) {
      const spelled = (token) => ["GET /_limiter/blocked HTTP/1.1", "CF-Connecting-IP: 192.0.2.78", `Authorization: ${before}${token}${after}`];
      assert.equal((await raw(limiter, spelled(ADMIN_TOKEN))).status, 200, `${before}${after}`);
      assert.equal((await raw(limiter, spelled(`${ADMIN_TOKEN}x`))).status, 401, `${before}${after}`);
    }
  });

  it("a token with bytes that no client would send, or in two headers, opens nothing", async () => {
    for (const authorization of [`Bearer ${ADMIN_TOKEN}\0`, "Bearer \0", `Bearer \0${ADMIN_TOKEN}`, "Bearer \x01\x7f", `Bearer ${ADMIN_TOKEN}\xff`, `Bearer ${Buffer.from("ü€\u{1f600}").toString("latin1")}`]) {
      const answer = await raw(limiter, ["GET /_limiter/blocked HTTP/1.1", "CF-Connecting-IP: 192.0.2.77", `Authorization: ${authorization}`]);
      assertRevealsNothing(answer, authorization);
      assert.ok([0, 400, 401].includes(answer.status), `${authorization} is answered ${answer.status}`);
    }
    // Two headers, which the runtime joins into one value.
    const twice = await raw(limiter, ["GET /_limiter/blocked HTTP/1.1", "CF-Connecting-IP: 192.0.2.77", "Authorization: Bearer x", `Authorization: Bearer ${ADMIN_TOKEN}`]);
    assertRevealsNothing(twice, "twice");
    assert.ok([400, 401].includes(twice.status), `two headers are answered ${twice.status}`);
    await assertUnchanged();
  });

  for (const [mode, { vars: own }] of Object.entries(MODES)) {
    it(`wrong tokens are limited by address, in ${mode}, even if the limiter is disabled`, async () => {
      const throttled = await start({ ...own, RATE_LIMIT_ADMIN: "5,60,60", RATE_LIMIT_ENABLED: "false" });
      const attempt = (i, from) => control(throttled, ...CALLS[i % CALLS.length], { token: `guess-${i}`, from });
      for (let i = 0; i < 5; i++) assert.equal((await attempt(i, "192.0.2.66")).status, 401);
      for (let i = 5; i < 15; i++) {
        const answer = await attempt(i, "192.0.2.66");
        assert.deepEqual([answer.status, answer.json().error], [429, "too_many_attempts"]);
        const wait = Number(answer.headers["retry-after"]);
        assert.ok(wait > 0 && wait <= 62, `Retry-After is ${wait} s`);
      }
      // The right token is too long to be guessed. It works all the same, and the guesses at it are forgiven.
      await good(throttled, "GET", "blocked", { from: "192.0.2.66" });
      assert.equal((await attempt(0, "192.0.2.66")).status, 401);
      // Other addresses are not affected, and the right token is not limited.
      for (let i = 0; i < 20; i++) await good(throttled, "GET", "policies", { from: "192.0.2.67" });
      await refused(401, throttled, "GET", "policies", { token: "wrong", from: "2001:db8::1" });
      for (let i = 0; i < 4; i++) assert.equal((await attempt(i, `2001:db8::${i + 2}`)).status, 401);
      await refused(429, throttled, "GET", "policies", { token: "wrong", from: "2001:db8::9" });
      // The limit on wrong tokens does not deny that address's other requests.
      await isAdmitted(throttled, "192.0.2.66");
    });
  }

  it("a flood of wrong tokens costs the store few commands", async () => {
    const throttled = await start({ RATE_LIMIT_ADMIN: "5,60,60" });
    const { standIn } = shared;
    const before = await standIn.billed();
    for (let i = 0; i < 500; i++) {
      const { status } = await control(throttled, "GET", "blocked", { token: `guess-${i}`, from: "192.0.2.66" });
      assert.equal(status, i < 5 ? 401 : 429);
    }
    const billed = (await standIn.billed()) - before;
    assert.ok(billed < 100, `${billed} commands were billed`);
    await eventually(async () => {
      const { events } = await good(throttled, "GET", "events");
      assert.ok(events.some(({ kind, caller }) => kind === "refused" && caller === "192.0.2.66"));
      assert.ok(events.length < 20, `${events.length} events were recorded`);
    }, RECORDED_MS);
  });

  it("no other spelling of a path opens the control plane without a token, or causes a failure", async () => {
    const tricks = [
      "/_limiter//blocked", "/_limiter/../_limiter/blocked", "/%5flimiter/blocked", "/%5Flimiter/blocked", "/_LIMITER/blocked", "/_limiter/BLOCKED", "/_limiter/blocked/..%2fevents",
      "/_limiter/blocked/../events", "/_limiter/blocked;x", "/_limiter;/blocked", "/_limiter/;/blocked", "/_limiter/blocked/", "/_limiter/blocked//", "/_limiter/blocked/192.0.2.1/",
      "//_limiter/blocked", "///_limiter/blocked", "/./_limiter/blocked", "/_limiter/./blocked", "/_limiter/health/../blocked", "/_limiter/health/..%2fblocked", "/_limiter/health/%2e%2e/blocked",
      "/_limiter/health%2f..%2fblocked", "/_limiter/health;/../blocked", "/_limiter/health/blocked", "/_limiter/health?/../blocked", "/_limiter\\blocked", "/_limiter%2fblocked", "/_limiter%5cblocked",
      "/_limiter/blocked%00", "/_limiter/blocked%0a", "/_limiter/%62locked", "/_limiter/%2562locked", "/_limiter/blocked%2f192.0.2.1", "/_limiter/blocked/%", "/_limiter/blocked/%zz",
      "/_limiter/blocked/%ff", "/_limiter/blocked#/health", "/x/../_limiter/blocked", "/_limiter/blocked?", "/_limiter/blocked?path=health", `/_limiter/${"a/".repeat(2000)}`, `/_limiter/blocked/${"1".repeat(8000)}`,
      "/_limiter/usage/general/192.0.2.1/", "/_limiter/usage//192.0.2.1", "/_limiter/usage/general/..%2f..%2fblocked", "/_limiter/events.json", "/_limiter/blocked.css", "/_limiter/..",
    ];
    for (const path of tricks) {
      for (const method of ["GET", "DELETE"]) {
        const answer = await send(limiter.url, { method, path, headers: { "CF-Connecting-IP": "192.0.2.3" } });
        assertRevealsNothing({ status: answer.status, text: answer.text() }, `${method} ${path}`);
        // The answer is public, or a refusal.
        if (answer.status === 200) assert.match(answer.text(), /^\{"(admitted":true|status":"ok")/, path);
        else assert.ok([400, 401, 404, 405, 414].includes(answer.status), `${path}: ${answer.status}`);
      }
      // With the token, nothing fails either.
      const known = await send(limiter.url, { path, headers: { "CF-Connecting-IP": OPERATOR, Authorization: `Bearer ${ADMIN_TOKEN}` } });
      assert.notEqual(known.status, 500, path);
    }
    for (const line of ["GET /_limiter/blocked\0 HTTP/1.1", "GET /_limiter/\xff\xfe HTTP/1.1", "GET _limiter/blocked HTTP/1.1", "GET  /_limiter/blocked HTTP/1.1", "GET /_limiter/blocked HTTP/0.9"]) {
      assertRevealsNothing({ ...(await raw(limiter, [line, "CF-Connecting-IP: 192.0.2.3"])), status: 0 }, line);
    }
    await assertUnchanged();
  });

  it("only documented methods are accepted, and headers that override the method are ignored", async () => {
    const overrides = ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"];
    for (const name of overrides) {
      has(await good(limiter, "GET", blocked(VICTIM), { headers: { [name]: "DELETE" } }), { blocked: true });
      await refused(405, limiter, "POST", blocked(VICTIM), { headers: { [name]: "DELETE" }, json: { _method: "DELETE" } });
    }
    const { status } = await control(limiter, "GET", `${blocked(VICTIM)}?_method=DELETE`);
    assert.ok([200, 400].includes(status));
    const allowed = {
      blocked: ["GET"], [blocked(VICTIM)]: ["GET", "PUT", "DELETE"], events: ["GET", "DELETE"], suspicious: ["GET"], policies: ["GET"],
      [usage("general", VICTIM)]: ["GET", "DELETE"], check: ["POST"],
    };
    for (const [path, methods] of Object.entries(allowed)) {
      for (const method of ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"]) {
        if (methods.includes(method)) continue;
        const { headers } = await refused(405, limiter, method, path);
        const named = headers.allow.split(", ").filter((name) => name !== "HEAD").sort();
        assert.deepEqual(named, [...methods].sort(), path);
      }
    }
    await assertUnchanged();
  });

  it("answers to other origins have no CORS headers, and no preflight succeeds", async () => {
    for (const origin of ["https://evil.example", "null", limiter.url]) {
      for (const [method, path] of [...CALLS, ["GET", "health"], ["GET", "nosuch"]]) {
        for (const token of [null, "wrong"]) await control(limiter, method, path, { token, from: "192.0.2.67", headers: { Origin: origin } });
        const headers = { Origin: origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization" };
        for (const token of [null, ADMIN_TOKEN]) {
          const answer = await control(limiter, "OPTIONS", path, { token, headers });
          assert.ok(path === "nosuch" ? [401, 404].includes(answer.status) : [401, 405].includes(answer.status), `${path}: ${answer.status}`);
        }
      }
      const answer = await control(limiter, "GET", "blocked", { headers: { Origin: origin } });
      assert.equal(answer.status, 200);
    }
    await assertUnchanged();
  });

  it("no answer and no log contains a secret, whichever call fails", async () => {
    const secrets = [ADMIN_TOKEN, CHECK_TOKEN, BYPASS_TOKEN, shared.standIn.token];
    const seen = [];
    const call = async (...args) => {
      const answer = await control(limiter, ...args);
      seen.push(answer.rawHeaders.join("\n"), answer.text());
    };
    await get(limiter, "192.0.2.4", `/?x=1`, { headers: { "X-RateLimit-Bypass": BYPASS_TOKEN, Authorization: `Bearer ${ADMIN_TOKEN}` } });
    for (const faults of [[], [DOWN], [{ kind: "html" }], [{ kind: "unauthorized" }]]) {
      shared.standIn.faults.set(...faults);
      for (const [method, path] of [...CALLS, ["GET", "health"], ["GET", "nosuch"], ["PATCH", "blocked"]]) {
        for (const token of [ADMIN_TOKEN, CHECK_TOKEN, null, `${ADMIN_TOKEN}x`]) {
          await call(method, path, { token, body: method === "POST" ? `{"policy":"general","identifier":"a","cost":0}` : undefined });
          await call(method, path, { token, body: `{${ADMIN_TOKEN}`, headers: { "X-RateLimit-Bypass": BYPASS_TOKEN } });
        }
      }
    }
    shared.standIn.faults.clear();
    await eventually(async () => assert.equal((await control(limiter, "GET", "events")).status, 200), RECORDED_MS);
    await call("GET", "events?limit=1000");
    for (const text of [...seen, limiter.logs()]) {
      for (const secret of secrets) assert.ok(!text.includes(secret), `an answer or the log contains a secret: ${text.slice(0, 300)}`);
    }
  });

  it("without ADMIN_TOKEN every call but health is answered 404", async () => {
    const closed = await start({ ADMIN_TOKEN: "", CHECK_TOKEN: "" });
    for (const [method, path] of [...CALLS, ["OPTIONS", "blocked"], ["GET", "nosuch"]]) {
      for (const token of [null, "", "undefined", ADMIN_TOKEN, CHECK_TOKEN]) await refused(404, closed, method, path, { token });
    }
    await good(closed, "GET", "health", { token: null });
  });
});

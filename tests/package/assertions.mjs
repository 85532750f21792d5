/** Assertions about the answers of the tests' applications, which have to be the same on every platform. */
import assert from "node:assert/strict";
import { send } from "../harness/request.mjs";
import { version } from "./scratch.mjs";

export const ADMIN_TOKEN = "an-admin-token-of-this-test";

/** The variables of the applications. Each caller has three requests. */
export const VARIABLES = { RATE_LIMIT_GENERAL: "3,600", RATE_LIMIT_AUTH: "2,600", ADMIN_TOKEN };

/** Headers with which a client may try to pass as another caller, with another address each time. */
let forgeries = 0;
export const forged = (...except) => {
  const names = ["X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP", "X-Vercel-Forwarded-For", "X-Edge-Limiter-IP", "Fly-Client-IP", "CF-Connecting-IP"];
  const address = () => `198.51.100.${(forgeries += 1) % 256}`;
  const headers = names.filter((name) => !except.includes(name)).map((name) => [name, address()]);
  return { ...Object.fromEntries(headers), Forwarded: `for=${address()}` };
};

/**
 * Asserts that a server limits each caller to three requests, whatever forged headers they have.
 *
 * @param {string} url
 * @param {object} options
 * @param {string} [options.path] the application's path
 * @param {string} [options.header] the header in which the platform names the caller. Default: the connection's address counts
 * @param {string} [options.answer] the application's answer
 */
export async function assertLimits(url, { path = "/", header, answer = "hello" } = {}) {
  const ask = (address) => send(url, { path, headers: { ...forged(header), ...(header && { [header]: address }) } });
  for (const remaining of ["2", "1", "0"]) {
    const admitted = await ask("192.0.2.1");
    assert.equal(admitted.status, 200, short(admitted));
    const figures = ["limit", "remaining", "type"].map((name) => admitted.headers[`x-ratelimit-${name}`]);
    assert.deepEqual([admitted.text(), ...figures], [answer, "3", remaining, "general"]);
  }
  const denied = await ask("192.0.2.1");
  assert.equal(denied.status, 429, short(denied));
  const { type, limit, retryAfter, blocked } = denied.json();
  assert.deepEqual([type, limit, blocked, denied.headers["cache-control"], denied.headers["retry-after"]], ["general", 3, false, "no-store", String(retryAfter)]);
  if (header) assert.equal((await ask("192.0.2.2")).status, 200, "another caller");
}

/** Asserts that the control plane answers under `/_limiter`, including the page's files. */
export async function assertControlPlane(url, headers = {}) {
  const health = await send(url, { path: "/_limiter/health", headers: { ...headers, Authorization: `Bearer ${ADMIN_TOKEN}` } });
  assert.equal(health.status, 200, short(health));
  const { status, store, version: running } = health.json();
  assert.deepEqual([status, store, running], ["ok", "memory", version], short(health));
  for (const [path, type] of [["", "text/html"], ["/", "text/html"], ["/page.js", "text/javascript"]]) {
    const file = await sendFollowingRedirect(url, `/_limiter${path}`, headers);
    assert.deepEqual([file.status, file.headers["content-type"]], [200, `${type}; charset=utf-8`], `${path} ${short(file)}`);
    assert.equal(file.text().startsWith("<!doctype html>"), type === "text/html", short(file));
  }
  const events = await send(url, { path: "/_limiter/events", headers });
  assert.equal(events.status, 401, "the control plane should require the token");
}

/** Follows one redirect, because some frameworks redirect a path with or without a slash. Only one: the target must not redirect back. */
async function sendFollowingRedirect(url, path, headers) {
  const answer = await send(url, { path, headers });
  return answer.status === 308 ? send(url, { path: new URL(answer.headers.location, url).pathname, headers }) : answer;
}

/** Asserts the results of the calls that `application.mjs` makes. */
export async function assertCalls(url, headers = {}) {
  const answer = await send(url, { path: "/calls", headers });
  assert.equal(answer.status, 200, short(answer));
  assert.deepEqual(answer.json(), {
    checks: [[true, 1], [true, 0], [false, 0]],
    used: 2,
    limit: 2,
    afterReset: true,
    values: ["OK", "hällo", 1, 2, true, 1, null],
    blocks: [true, ["203.0.113.0/24"], true, false],
    health: ["ok", "memory", version],
    codes: ["LimiterError unknown_policy", "LimiterError not_a_number", "LimiterError bad_key"],
  });
}

/** Returns the beginning of an unexpected answer. Frameworks answer errors with whole pages. */
const short = (answer) => answer.text().slice(0, 500);

/** What every application of the tests has to answer, whatever it runs on. */
import assert from "node:assert/strict";
import { send } from "../harness/request.mjs";
import { version } from "./scratch.mjs";

export const ADMIN_TOKEN = "an-admin-token-of-this-test";

/** The variables of the applications: three requests to each caller. */
export const VARIABLES = { RATE_LIMIT_GENERAL: "3,600", RATE_LIMIT_AUTH: "2,600", ADMIN_TOKEN };

/** What a client may try to be taken for somebody else: each time another address. */
let forgeries = 0;
export const forged = (...except) => {
  const names = ["X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP", "X-Vercel-Forwarded-For", "X-Edge-Limiter-IP", "Fly-Client-IP", "CF-Connecting-IP"];
  const address = () => `198.51.100.${(forgeries += 1) % 256}`;
  const headers = names.filter((name) => !except.includes(name)).map((name) => [name, address()]);
  return { ...Object.fromEntries(headers), Forwarded: `for=${address()}` };
};

/**
 * That a server limits each caller alone to three requests, whatever else its requests say.
 *
 * @param {string} url
 * @param {object} options
 * @param {string} [options.path] where the application is
 * @param {string} [options.header] by which the platform says who the caller is. Default: the connection
 * @param {string} [options.answer] what the application answers
 */
export async function limits(url, { path = "/", header, answer = "hello" } = {}) {
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

/** That the control plane answers beneath `/_limiter`, the page's files with it. */
export async function operates(url, headers = {}) {
  const health = await send(url, { path: "/_limiter/health", headers: { ...headers, Authorization: `Bearer ${ADMIN_TOKEN}` } });
  assert.equal(health.status, 200, short(health));
  const { status, store, version: running } = health.json();
  assert.deepEqual([status, store, running], ["ok", "memory", version], short(health));
  for (const [path, type] of [["", "text/html"], ["/", "text/html"], ["/page.js", "text/javascript"]]) {
    const file = await followed(url, `/_limiter${path}`, headers);
    assert.deepEqual([file.status, file.headers["content-type"]], [200, `${type}; charset=utf-8`], `${path} ${short(file)}`);
    assert.equal(file.text().startsWith("<!doctype html>"), type === "text/html", short(file));
  }
  const events = await send(url, { path: "/_limiter/events", headers });
  assert.equal(events.status, 401, "without the token");
}

/** As a browser asks: where a framework allows one spelling of a path alone, it redirects the other. Once: what follows must not lead back. */
async function followed(url, path, headers) {
  const answer = await send(url, { path, headers });
  return answer.status === 308 ? send(url, { path: new URL(answer.headers.location, url).pathname, headers }) : answer;
}

/** That the calls of `application.mjs` come to what they have to. */
export async function calls(url, headers = {}) {
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

/** The beginning of an answer that was not expected: frameworks answer errors with whole pages. */
const short = (answer) => answer.text().slice(0, 500);

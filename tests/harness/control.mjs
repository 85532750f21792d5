/**
 * The control plane as an operator's program calls it. What holds for every answer of it is asserted on every answer.
 */

import assert from "node:assert/strict";
import { AssertionError } from "node:assert";
import { setTimeout as delay } from "node:timers/promises";
import { OVER_TCP } from "./limited.mjs";
import { send } from "./request.mjs";

export const ADMIN_TOKEN = "an-admin-token-of-this-test";
export const CHECK_TOKEN = "a-check-token-of-this-test";
export const BYPASS_TOKEN = "a-bypass-token-of-this-test";

/** Where the operator's calls come from, unless a test says. */
export const OPERATOR = "198.18.0.1";

/** The variables that make a limiter keep its records in memory or in Redis, and the scope that it then names. */
export const MODES = {
  memory: { vars: { REDIS_ENABLED: "false" }, scope: "isolate" },
  redis: { vars: {}, scope: "shared" },
  "redis over TCP": { vars: OVER_TCP, scope: "shared" },
};

/** What takes effect elsewhere does so within this. */
export const ELSEWHERE_MS = 10_000;

/** Records are flushed some seconds after what they record. */
export const RECORDED_MS = 15_000;

/** Between two looks. */
const PAUSE_MS = 50;

/**
 * A call to `/_limiter/` + `path`; its answer.
 *
 * @param {{url: string}} limiter
 * @param {string} method
 * @param {string} path after `/_limiter/`, as it is to be sent
 * @param {object} [options]
 * @param {unknown} [options.json] the body, as JSON
 * @param {string | Buffer} [options.body] the body, as it is
 * @param {string | null} [options.token] `null`: none
 * @param {string} [options.from] the address that calls
 * @param {Record<string, string>} [options.headers] more of them
 */
export async function control(limiter, method, path, { json, body = JSON.stringify(json), token = ADMIN_TOKEN, from = OPERATOR, headers } = {}) {
  const authorization = token === null ? {} : { Authorization: `Bearer ${token}` };
  const answer = await send(limiter.url, {
    method, path: `/_limiter/${path}`, body,
    headers: { "CF-Connecting-IP": from, ...authorization, ...headers },
  });
  isProper(answer, `${method} ${path}`.slice(0, 200));
  return answer;
}

/** Whatever the control plane answers: not stored, JSON, no word of CORS, no failure of the limiter's own, errors with a code. */
export function isProper(answer, what) {
  const { status, headers } = answer;
  assert.ok(status < 500 || status === 503, `${what}: ${status} ${answer.text()}`);
  assert.equal(headers["cache-control"], "no-store", `${what}: ${status}`);
  assert.match(headers["content-type"] ?? "", /^application\/json\b/, `${what}: ${status}`);
  assert.deepEqual(Object.keys(headers).filter((name) => name.startsWith("access-control-")), [], what);
  if (status < 400) return;
  const { error, message } = answer.json();
  assert.match(error, /^[a-z_]+$/, what);
  assert.equal(typeof message, "string", what);
}

/** What a call that succeeds returns. */
export async function good(limiter, method, path, options) {
  const answer = await control(limiter, method, path, options);
  assert.equal(answer.status, 200, `${method} ${path}: ${answer.text()}`);
  return answer.json();
}

const CODES = {
  400: "bad_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 409: "refused", 413: "too_large",
  429: "too_many_attempts", 503: "store_unavailable",
};

/** That a call is refused with this status and its code; the answer. */
export async function refused(status, limiter, method, path, options) {
  const answer = await control(limiter, method, path, options);
  const { error } = answer.json();
  const what = `${method} ${path} ${options?.body ?? JSON.stringify(options?.json) ?? ""}`.slice(0, 300);
  assert.deepEqual([answer.status, error], [status, CODES[status]], what);
  return answer;
}

/** `blocked/` and the target. */
export const blocked = (target) => `blocked/${encodeURIComponent(target)}`;

/** `usage/`, the policy and the caller. */
export const usage = (policy, caller) => `usage/${policy}/${encodeURIComponent(caller)}`;

/** All the pages of a list: `key` names the entries. */
export async function pages(limiter, path, key, limit) {
  const all = [];
  let cursor = null;
  do {
    const at = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await good(limiter, "GET", `${path}?limit=${limit}${at}`);
    assert.ok(page[key].length <= limit, `${page[key].length} of ${limit}`);
    all.push(page);
    cursor = page.cursor;
    assert.ok(all.length < 1000, "an end");
  } while (cursor !== null);
  return all;
}

/**
 * Repeats `body` until none of its assertions fails, and fails as it last did where that takes too long.
 *
 * @template T
 * @param {() => Promise<T>} body
 * @param {number} [ms]
 * @returns {Promise<T>}
 */
export async function eventually(body, ms = ELSEWHERE_MS, pause = PAUSE_MS) {
  const end = performance.now() + ms;
  for (;;) {
    try {
      return await body();
    } catch (error) {
      if (!(error instanceof AssertionError) || performance.now() > end) throw error;
    }
    await delay(pause);
  }
}

/** That an object has these fields, and maybe others. */
export function has(actual, expected) {
  const found = Object.fromEntries(Object.keys(expected).map((name) => [name, actual?.[name]]));
  assert.deepEqual(found, expected, JSON.stringify(actual)?.slice(0, 500));
}

/** That a time in ms is so many ms from now, give or take what a busy machine takes. */
export function isNear(time, fromNow, slack = 10_000) {
  assert.ok(Number.isInteger(time) && Math.abs(time - Date.now() - fromNow) <= slack, `${time}: ${time - Date.now()} ms from now, not ${fromNow}`);
}

/** A request of a caller, whole: traffic, not the control plane. */
export function get(limiter, caller, path = "/", { method = "GET", headers } = {}) {
  return send(limiter.url, { method, path, headers: { "CF-Connecting-IP": caller, ...headers } });
}

/** That a caller is refused as blocked. `seconds`: until its block ends; `null`: it has no end. */
export async function isBlocked(limiter, caller, seconds, path = "/") {
  const answer = await get(limiter, caller, path);
  assert.equal(answer.status, 429, `${caller}: ${answer.status}`);
  assert.equal(answer.json().blocked, true, caller);
  const wait = answer.headers["retry-after"];
  if (seconds === null) assert.equal(wait, undefined, caller);
  else assert.ok(Number(wait) > 0 && Number(wait) <= seconds && Number(wait) > seconds - 20, `${caller}: Retry-After ${wait} of ${seconds}`);
}

/** That a caller is admitted. */
export async function isAdmitted(limiter, caller, path = "/", options = {}) {
  const { status } = await get(limiter, caller, path, options);
  assert.equal(status, 200, `${caller}: ${status}`);
}

/**
 * Calls the control plane as an operator's program does. Every call also asserts what must hold for every answer.
 */

import assert from "node:assert/strict";
import { AssertionError } from "node:assert";
import { setTimeout as delay } from "node:timers/promises";
import { OVER_TCP } from "./limited.mjs";
import { send } from "./request.mjs";

export const ADMIN_TOKEN = "an-admin-token-of-this-test";
export const CHECK_TOKEN = "a-check-token-of-this-test";
export const BYPASS_TOKEN = "a-bypass-token-of-this-test";

/** The address that the operator calls from by default. */
export const OPERATOR = "198.18.0.1";

/** Variables that make a limiter keep its records in memory or in Redis, and the scope that the control plane then reports. */
export const MODES = {
  memory: { vars: { REDIS_ENABLED: "false" }, scope: "isolate" },
  redis: { vars: {}, scope: "shared" },
  "redis over TCP": { vars: OVER_TCP, scope: "shared" },
};

/** A change takes effect in other isolates within this time. */
export const ELSEWHERE_MS = 10_000;

/** A record is readable within this time: isolates flush records some seconds after the event. */
export const RECORDED_MS = 15_000;

/** Time between two attempts of `eventually`. */
const PAUSE_MS = 50;

/**
 * Calls `/_limiter/` + `path` and returns the answer.
 *
 * @param {{url: string}} limiter
 * @param {string} method
 * @param {string} path after `/_limiter/`, sent unchanged
 * @param {object} [options]
 * @param {unknown} [options.json] the body, as JSON
 * @param {string | Buffer} [options.body] the body, sent unchanged
 * @param {string | null} [options.token] `null`: no token
 * @param {string} [options.from] the caller's address
 * @param {Record<string, string>} [options.headers] further headers
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

/** Asserts what holds for every answer of the control plane: `no-store`, JSON, no CORS headers, no internal error, errors with a code. */
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

/** Makes a call that must succeed, and returns its body. */
export async function good(limiter, method, path, options) {
  const answer = await control(limiter, method, path, options);
  assert.equal(answer.status, 200, `${method} ${path}: ${answer.text()}`);
  return answer.json();
}

const CODES = {
  400: "bad_request", 401: "unauthorized", 404: "not_found", 405: "method_not_allowed", 409: "refused", 413: "too_large",
  429: "too_many_attempts", 503: "store_unavailable",
};

/** Makes a call that must be refused with this status and its error code, and returns the answer. */
export async function refused(status, limiter, method, path, options) {
  const answer = await control(limiter, method, path, options);
  const { error } = answer.json();
  const what = `${method} ${path} ${options?.body ?? JSON.stringify(options?.json) ?? ""}`.slice(0, 300);
  assert.deepEqual([answer.status, error], [status, CODES[status]], what);
  return answer;
}

/** Returns the path of a block. */
export const blocked = (target) => `blocked/${encodeURIComponent(target)}`;

/** Returns the path of a caller's usage under a policy. */
export const usage = (policy, caller) => `usage/${policy}/${encodeURIComponent(caller)}`;

/** Returns all pages of a list. `key` is the field with the entries. */
export async function pages(limiter, path, key, limit) {
  const all = [];
  let cursor = null;
  do {
    const at = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await good(limiter, "GET", `${path}?limit=${limit}${at}`);
    assert.ok(page[key].length <= limit, `a page has ${page[key].length} entries, the limit is ${limit}`);
    all.push(page);
    cursor = page.cursor;
    assert.ok(all.length < 1000, "the list should end within 1000 pages");
  } while (cursor !== null);
  return all;
}

/**
 * Repeats `body` until none of its assertions fails. Throws the last failure after `ms`.
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

/** Asserts that an object has these fields. It may have others. */
export function has(actual, expected) {
  const found = Object.fromEntries(Object.keys(expected).map((name) => [name, actual?.[name]]));
  assert.deepEqual(found, expected, JSON.stringify(actual)?.slice(0, 500));
}

/** Asserts that a time is `fromNow` ms from now, within a slack for busy machines. */
export function isNear(time, fromNow, slack = 10_000) {
  assert.ok(Number.isInteger(time) && Math.abs(time - Date.now() - fromNow) <= slack, `${time} is ${time - Date.now()} ms from now, not ${fromNow}`);
}

/** Sends a caller's request to the limiter, not to the control plane, and returns the whole answer. */
export function get(limiter, caller, path = "/", { method = "GET", headers } = {}) {
  return send(limiter.url, { method, path, headers: { "CF-Connecting-IP": caller, ...headers } });
}

/** Asserts that a caller is denied by a block. `seconds`: until the block ends; `null`: the block has no end. */
export async function isBlocked(limiter, caller, seconds, path = "/") {
  const answer = await get(limiter, caller, path);
  assert.equal(answer.status, 429, `${caller}: ${answer.status}`);
  assert.equal(answer.json().blocked, true, caller);
  const wait = answer.headers["retry-after"];
  if (seconds === null) assert.equal(wait, undefined, caller);
  else assert.ok(Number(wait) > 0 && Number(wait) <= seconds && Number(wait) > seconds - 20, `${caller}: Retry-After ${wait} of ${seconds}`);
}

/** Asserts that a caller is admitted. */
export async function isAdmitted(limiter, caller, path = "/", options = {}) {
  const { status } = await get(limiter, caller, path, options);
  assert.equal(status, 200, `${caller}: ${status}`);
}

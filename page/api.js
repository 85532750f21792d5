/** Calls of the control plane, which also serves the page. The token is sent in a header, and kept until the tab is closed. */

const STORAGE_KEY = "edge-limiter-token";
const TIMEOUT_MS = 20_000;
/** How long to wait after a 429 without `Retry-After`. */
const DEFAULT_WAIT_S = 60;

let token = sessionStorage.getItem(STORAGE_KEY) ?? "";

export const hasToken = () => token !== "";

export function keepToken(value) {
  token = value;
  sessionStorage.setItem(STORAGE_KEY, value);
}

export function forgetToken() {
  token = "";
  sessionStorage.removeItem(STORAGE_KEY);
}

/**
 * Why a call failed. `kind`: `token` (not accepted), `wait` (too many wrong tokens: wait for `seconds`), `absent` (this limiter has
 * nothing at that path), `refused` (the limiter does not do what was asked), `store` (Redis does not answer), `network`.
 */
export class Failure extends Error {
  constructor(kind, message, seconds) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

const KINDS = { 401: "token", 404: "absent", 429: "wait", 503: "store" };

/**
 * @param {string} path the path below `/_limiter/`, encoded
 * @param {{method?: string, json?: unknown, as?: string}} [options] `as`: a token to use in place of the kept one
 * @returns {Promise<any>} the answer
 * @throws {Failure}
 */
export async function call(path, { method = "GET", json, as = token } = {}) {
  let answer;
  try {
    const response = await fetch(`/_limiter/${path}`, {
      method,
      headers: { Authorization: `Bearer ${as}`, ...(json && { "Content-Type": "application/json" }) },
      body: json && JSON.stringify(json),
      cache: "no-store",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    answer = { status: response.status, wait: Number(response.headers.get("retry-after")) || DEFAULT_WAIT_S, body: await response.json() };
  } catch {
    throw new Failure("network", "The limiter does not answer.");
  }
  const { status, wait, body } = answer;
  if (status === 200) return body;
  if (status === 429) throw new Failure("wait", `Too many wrong tokens came from this address. Try again in ${wait} s.`, wait);
  if (status === 401) throw new Failure("token", "This token is not accepted.");
  throw new Failure(KINDS[status] ?? "refused", String(body.message ?? `The limiter answered ${status}.`));
}

/** The answer at a path, or `undefined` if this limiter has nothing there. */
export async function callIfPresent(path) {
  try {
    return await call(path);
  } catch (failure) {
    if (failure.kind === "absent") return undefined;
    throw failure;
  }
}

/** Encodes one part of a path. */
export const part = (text) => encodeURIComponent(text);

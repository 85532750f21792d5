/** Calls of the control plane, which is where the page is. The token is sent in a header, and kept as long as the tab is open. */

const KEPT = "edge-limiter-token";
const TIMEOUT_MS = 20_000;
/** How long to wait where the limiter does not say. */
const USUAL_WAIT_S = 60;

let token = sessionStorage.getItem(KEPT) ?? "";

export const hasToken = () => token !== "";

export function keepToken(value) {
  token = value;
  sessionStorage.setItem(KEPT, value);
}

export function forgetToken() {
  token = "";
  sessionStorage.removeItem(KEPT);
}

/**
 * Why a call has no answer. `kind`: `token` (not accepted), `wait` (too many wrong tokens; `seconds` to wait), `absent` (there is
 * nothing at that path), `refused` (what was asked is not done), `store` (Redis does not answer), `network`.
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
 * @param {string} path beneath `/_limiter/`, encoded
 * @param {{method?: string, json?: unknown, as?: string}} [options] `as`: a token to try in place of the one that is kept
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
    answer = { status: response.status, wait: Number(response.headers.get("retry-after")) || USUAL_WAIT_S, body: await response.json() };
  } catch {
    throw new Failure("network", "The limiter does not answer.");
  }
  const { status, wait, body } = answer;
  if (status === 200) return body;
  if (status === 429) throw new Failure("wait", `Too many wrong tokens came from this address. Try again in ${wait} s.`, wait);
  if (status === 401) throw new Failure("token", "This token is not accepted.");
  throw new Failure(KINDS[status] ?? "refused", String(body.message ?? `The limiter answered ${status}.`));
}

/** What is at a path, or `undefined` where this limiter has nothing there. */
export async function callIfThere(path) {
  try {
    return await call(path);
  } catch (failure) {
    if (failure.kind === "absent") return undefined;
    throw failure;
  }
}

/** A part of a path. */
export const part = (text) => encodeURIComponent(text);

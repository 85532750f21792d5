/** A transport over Upstash's REST API, or over a bridge that answers it. */
import { fetchOptions } from "../fetch-options.js";
import { FAILED, TIMED_OUT } from "../statuses.js";

/**
 * A transport calls Redis. `call` takes one command, a list of words as JSON text, and a timeout in ms. It resolves to a status and a
 * body, as Upstash's REST API has them: 200 with `{"result": ...}`, 400 with `{"error": ...}`, or a status of statuses.js if the call
 * failed. It never rejects.
 *
 * @typedef {{call: (body: string, timeout: number) => Promise<[number, string]>}} Transport
 */

/** @returns {Transport} */
export function overRest({ url, token }) {
  // A `Headers` that is made once costs the runtime less than a record in each call.
  const headers = new Headers({ Authorization: `Bearer ${token}`, "Content-Type": "application/json" });
  return { call: (body, timeout) => post(url, headers, timeout, body) };
}

/**
 * `AbortSignal.timeout` costs a fifth of a timer that is set and cleared by hand. Its drawback: the runtime may answer a request that panicked only
 * when the timeout is over.
 */
async function post(url, headers, timeout, body) {
  const signal = AbortSignal.timeout(timeout);
  try {
    const response = await fetch(url, { ...fetchOptions(), method: "POST", headers, body, redirect: "manual", signal });
    // The signal also ends the reading of the body.
    return [response.status, await response.text()];
  } catch {
    return [signal.aborted ? TIMED_OUT : FAILED, ""];
  }
}

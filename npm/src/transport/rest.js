/** Upstash's REST API, or a bridge that speaks it. */
import { fetchOptions } from "../fetch-options.js";
import { FAILED, TIMED_OUT } from "../statuses.js";

/**
 * A transport is how Redis is called: `call` takes the JSON text of one command, a list of words, and answers a status and a
 * body as Upstash's REST API does: 200 with `{"result": ...}`; 400 with `{"error": ...}`; or one of the statuses of a call that
 * failed. It never rejects.
 *
 * @typedef {{call: (body: string, timeout: number) => Promise<[number, string]>}} Transport
 */

/** @returns {Transport} */
export function overRest({ url, token }) {
  // The runtime takes these for less than a record of headers.
  const headers = new Headers({ Authorization: `Bearer ${token}`, "Content-Type": "application/json" });
  return { call: (body, timeout) => post(url, headers, timeout, body) };
}

/**
 * The signal's timer costs a fifth of one that is set and cleared by hand; a request that traps meanwhile is answered when it is
 * over, at the latest.
 */
async function post(url, headers, timeout, body) {
  const signal = AbortSignal.timeout(timeout);
  try {
    const response = await fetch(url, { ...fetchOptions(), method: "POST", headers, body, redirect: "manual", signal });
    // What ends the call ends the reading of its body as well.
    return [response.status, await response.text()];
  } catch {
    return [signal.aborted ? TIMED_OUT : FAILED, ""];
  }
}

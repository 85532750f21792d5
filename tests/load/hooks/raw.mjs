/**
 * Sends requests exactly as given. Artillery normalises paths, writes header names in lower case and sends each header once, but some
 * scenarios need other forms. The requests are reported to Artillery like its own.
 */

import { Agent, request as httpRequest } from "node:http";
import { tally } from "./count.mjs";

const TIMEOUT_MS = 10_000;

const agent = new Agent({ keepAlive: true, maxSockets: 64 });

/**
 * @param {object} context context of the virtual user
 * @param {import("node:events").EventEmitter} events
 * @param {object} options
 * @param {string} options.name the name under which the request is counted
 * @param {boolean} [options.mayClose] whether the server may close the connection. That counts as `NAME.refused`, not as an error
 */
export async function raw(context, events, { name, path, headers, method = "GET", body, mayClose = false }) {
  const { hostname, port } = new URL(context.vars.target);
  events.emit("counter", "http.requests", 1);
  events.emit("rate", "http.request_rate");
  const started = performance.now();
  let answer;
  try {
    // A request whose connection may be closed must not share it with others.
    answer = await exchange({ hostname, port, path, method, headers, timeout: TIMEOUT_MS, agent: mayClose ? false : agent }, body);
  } catch (error) {
    if (mayClose && ["ECONNRESET", "EPIPE"].includes(error.code)) return void events.emit("counter", `${name}.refused`, 1);
    throw error; // Artillery counts the error and ends the virtual user
  }
  events.emit("histogram", "http.response_time", answer.at - started);
  events.emit("counter", "http.responses", 1);
  events.emit("counter", `http.codes.${answer.status}`, 1);
  events.emit("histogram", `${name}.latency`, answer.at - started);
  tally(events, name, answer.status, answer.headers, answer.body);
}

/** Sends a request and reads the answer. Errors of the connection after the answer have no effect. */
function exchange(options, body) {
  return new Promise((resolve, reject) => {
    const request = httpRequest(options, (response) => {
      const at = performance.now();
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () => resolve({ at, status: response.statusCode, headers: response.headers, body: String(Buffer.concat(chunks)) }));
      response.on("error", reject);
    });
    request.on("error", reject);
    request.on("timeout", () => request.destroy(Object.assign(new Error("timed out"), { code: "ETIMEDOUT" })));
    request.end(body);
  });
}

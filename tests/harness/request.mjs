/**
 * An HTTP client that sends and returns everything unchanged. `fetch` normalises paths, refuses methods and headers, decompresses
 * bodies, joins headers and drops the status text. The tests check exactly these.
 */

import { Agent, request as httpRequest } from "node:http";
import { once } from "node:events";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

/** Opens a new connection for each request, so that no request meets a connection that the server is just closing. */
const noKeepAlive = new Agent({ keepAlive: false, maxSockets: Infinity });

/**
 * Sends a request and reads the whole answer.
 *
 * @param {string} url scheme, host and port; its path is sent only if `path` is not given
 * @param {Options} [options]
 * @returns {Promise<Answer>}
 */
export async function send(url, options = {}) {
  const { response } = await open(url, options);
  const chunks = [];
  for await (const chunk of response) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  return {
    status: response.statusCode,
    statusText: response.statusMessage,
    headers: response.headers,
    rawHeaders: response.rawHeaders,
    body,
    text: () => body.toString("utf8"),
    json: () => JSON.parse(body.toString("utf8")),
  };
}

/**
 * Sends a request and returns the answer as soon as its headers have arrived. Its body is still to be read, and the request's body may
 * still be on the way.
 *
 * @typedef {object} Options
 * @property {string} [method]
 * @property {string} [path] sent exactly as given
 * @property {Record<string, string | string[]>} [headers]
 * @property {string | Buffer | AsyncIterable<Buffer>} [body] an iterable's chunks are sent as soon as they are available, with chunked
 *   encoding unless `headers` has a Content-Length
 * @property {Agent} [agent] default: a new connection for each request
 * @property {AbortSignal} [signal]
 *
 * @param {string} url
 * @param {Options} [options]
 * @returns {Promise<{request: import("node:http").ClientRequest, response: import("node:http").IncomingMessage}>}
 */
export async function open(url, { method = "GET", path, headers = {}, body, agent = noKeepAlive, signal } = {}) {
  const { hostname, port, pathname, search } = new URL(url);
  const whole = typeof body === "string" || Buffer.isBuffer(body);
  const framing = whole
    ? { "Content-Length": String(Buffer.byteLength(body)) }
    : body && !("Content-Length" in headers)
      ? { "Transfer-Encoding": "chunked" }
      : {};
  const request = httpRequest({
    hostname, port, method, agent, signal,
    path: path ?? pathname + search,
    headers: { ...framing, ...headers },
  });
  const answered = once(request, "response");
  answered.catch(() => {}); // reported below, unless sending the body fails first
  if (body === undefined || whole) request.end(body);
  else pipeline(Readable.from(body), request).catch(() => request.destroy());
  const [response] = await answered;
  return { request, response };
}

/**
 * An origin: an HTTP server that records the requests that it receives, so that tests can compare them with what the client sent.
 */

import { EventEmitter, once } from "node:events";
import { createServer } from "node:http";
import { within } from "./within.mjs";

/**
 * @typedef {object} Received
 * @property {string} method
 * @property {string} url the request target as received
 * @property {string[]} rawHeaders alternating names and values as received
 * @property {(name: string) => string[]} all returns the values of every header with this name
 * @property {(name: string) => string | undefined} header returns the only value of this header; throws if there are several
 * @property {Promise<Buffer>} body the whole body; rejects if it is cut off
 */

/**
 * @param {(request: import("node:http").IncomingMessage, response: import("node:http").ServerResponse, received: Received) => unknown} [handler]
 *   default: 200 with a short text. An exception becomes a 599, so that the test sees it.
 * @returns {Promise<Origin>}
 */
export async function startOrigin(handler = (_, response) => response.end("origin\n")) {
  const origin = new Origin(handler);
  origin.server.listen(0, "127.0.0.1");
  await once(origin.server, "listening");
  origin.port = origin.server.address().port;
  origin.url = `http://127.0.0.1:${origin.port}`;
  return origin;
}

class Origin {
  #arrivals = new EventEmitter();

  constructor(handler) {
    /** Answers requests. A test may replace it. */
    this.handler = handler;
    /** @type {Received[]} requests in the order of their arrival */
    this.requests = [];
    this.server = createServer((request, response) => this.#serve(request, response));
    // No idle limit, so that the Worker's next request never meets a connection that is just being closed.
    this.server.keepAliveTimeout = 0;
  }

  async #serve(request, response) {
    const received = receive(request);
    this.requests.push(received);
    this.#arrivals.emit("request");
    try {
      await this.handler(request, response, received);
    } catch (error) {
      if (response.headersSent) response.destroy();
      else response.writeHead(599).end(error.stack);
    }
  }

  /** The latest request. */
  get last() {
    return this.requests.at(-1);
  }

  /** Waits for the headers of a request and returns the request. Requests are numbered from 0. */
  async request(number) {
    while (this.requests.length <= number) {
      await within(once(this.#arrivals, "request"), `request ${number} at the origin`);
    }
    return this.requests[number];
  }

  async stop() {
    const closed = once(this.server, "close");
    this.server.close();
    this.server.closeAllConnections();
    await closed;
  }
}

function receive(request) {
  const all = (name) =>
    request.rawHeaders.filter((_, place) => place % 2 === 1 && request.rawHeaders[place - 1].toLowerCase() === name.toLowerCase());
  const body = new Promise((resolve, reject) => {
    const chunks = [];
    request.on("data", (chunk) => chunks.push(chunk));
    request.on("end", () => resolve(Buffer.concat(chunks)));
    request.on("error", reject);
  });
  body.catch(() => {}); // not every test reads the body
  return {
    method: request.method,
    url: request.url,
    rawHeaders: request.rawHeaders,
    all,
    header(name) {
      const values = all(name);
      if (values.length > 1) throw new Error(`the request has ${values.length} headers ${name}, not one: ${values.join(" | ")}`);
      return values[0];
    },
    body,
  };
}

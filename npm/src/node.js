/** Middleware for servers on `node:http`: Express, Connect, Next's API routes (types/node.d.ts). */
import { Readable } from "node:stream";
import { Verdict } from "./verdict.js";
import { expose, isRefusal } from "./responses.js";
import { limiterOf } from "./wrapping.js";

export function rateLimit(options = {}) {
  const limiter = limiterOf(options);
  return (request, response, next) => {
    limiter.limit(new NodeRequest(request), { address: connectionOf(request.socket) }).then((verdict) => {
      // The client has gone: nobody reads an answer.
      if (request.socket?.destroyed || response.headersSent) return;
      if (verdict.allowed) {
        admit(response, verdict);
        next();
      } else {
        response.statusCode = verdict.status;
        setAll(response, verdict.headers);
        response.end(Verdict.partsOf(verdict).body);
      }
    }, next);
  };
}

/** The address of a connection. One that has ended has none any more; one of a Unix socket has none at all. */
const connectionOf = (socket) => socket?.remoteAddress ?? (socket?.destroyed ? "" : undefined);

function setAll(response, headers) {
  for (const name of Object.keys(headers)) response.setHeader(name, headers[name]);
}

/** Sets the limiter's headers. What the application answers is known at its end alone. */
function admit(response, verdict) {
  const { exposed, headers, removed } = Verdict.partsOf(verdict);
  for (const name of removed) response.removeHeader(name);
  setAll(response, headers);
  const writeHead = response.writeHead;
  response.writeHead = function (status, ...given) {
    if (isRefusal(status)) {
      for (const name of Object.keys(headers)) if (response.getHeader(name) === headers[name]) response.removeHeader(name);
    }
    if (response.hasHeader("access-control-allow-origin")) {
      expose({ get: (name) => response.getHeader(name), set: (name, value) => response.setHeader(name, value) }, exposed);
    }
    return writeHead.call(this, status, ...given);
  };
}

/** What a host and a port are written with: anything else in `Host` would move what is read as the path. */
const HOST = /^[a-z0-9._:[\]-]+$/i;

/** What the module reads of a request, without making one of the platform's: that costs more than a decision. */
class NodeRequest {
  #message;

  constructor(message) {
    this.#message = message;
    this.method = message.method;
    this.url = urlOf(message);
    this.headers = new NodeHeaders(message.headers);
  }

  /** Read once at most, and only for the control plane. */
  get body() {
    const { headers, body, stream } = this.#message;
    const isSaid = headers["transfer-encoding"] !== undefined || Number(headers["content-length"]) > 0;
    // HTTP/2 need not say so in a header.
    if (!isSaid && stream?.endAfterHeaders !== false) return null;
    return { getReader: () => readable(this.#message, body).getReader() };
  }
}

/** The body as a stream; where middleware before this one has read it, what that has made of it. */
function readable(message, body) {
  if (!message.readableEnded) return Readable.toWeb(message);
  const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body ?? "");
  return new Blob([text]).stream();
}

function urlOf({ originalUrl, url, headers, socket }) {
  const scheme = socket?.encrypted ? "https" : "http";
  const named = headers.host ?? headers[":authority"] ?? "";
  const host = HOST.test(named) ? named : "localhost";
  const target = originalUrl ?? url;
  if (target.startsWith("/")) return `${scheme}://${host}${target}`;
  // To a proxy, in whole; of `OPTIONS *` it is a star.
  return /^https?:\/\//i.test(target) ? target : `${scheme}://${host}/${target}`;
}

/** Headers as `node:http` has them: names in lower case, lines of one name joined. */
class NodeHeaders {
  #headers;

  constructor(headers) {
    this.#headers = headers;
  }

  get(name) {
    const value = Object.hasOwn(this.#headers, name) ? this.#headers[name] : undefined;
    return Array.isArray(value) ? value.join(", ") : (value ?? null);
  }

  keys() {
    return Object.keys(this.#headers).filter((name) => !name.startsWith(":"));
  }
}

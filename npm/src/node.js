/** Middleware for servers on `node:http`: Express, Connect, Next's API routes (types/node.d.ts). */
import { expose, isRefusal } from "./responses.js";
import { partsOf } from "./verdict.js";
import { limiterOf } from "./wrapping.js";

export function rateLimit(options = {}) {
  const limiter = limiterOf(options);
  return (request, response, next) => {
    const act = (verdict) => {
      // The client has gone: nobody reads an answer.
      if (request.socket?.destroyed || response.headersSent) return;
      try {
        const parts = partsOf(verdict);
        if (!verdict.allowed) return answer(response, verdict, parts);
        decorateLater(response, parts);
      } catch (error) {
        return next(error);
      }
      next();
    };
    limiter.limit(new NodeRequest(request), { address: connectionOf(request.socket) }).then(act, next);
  };
}

/** The address of a connection. One that has ended has none any more; one of a Unix socket has none at all, nor a local one. */
const connectionOf = (socket) => socket?.remoteAddress ?? (socket?.destroyed || socket?.localAddress ? "" : undefined);

function setAll(response, headers) {
  for (const name of Object.keys(headers)) response.setHeader(name, headers[name]);
}

function answer(response, { status, headers }, { body }) {
  response.statusCode = status;
  setAll(response, headers);
  response.end(body);
}

/**
 * Decorates what the application answers when it is complete but for its body, as a Worker in front of it would: until then, nobody
 * knows its status and which headers it sets itself. HTTP/2 sends headers by `end` and `flushHeaders` without `writeHead`.
 */
function decorateLater(response, parts) {
  const { writeHead, end, flushHeaders } = response;
  // One of these calls another; what fails is decorated when it is tried again.
  let isWithin = false;
  const decorated = (method, before) => function (...given) {
    if (isWithin || response.headersSent) return method.apply(this, given);
    isWithin = true;
    try {
      return method.apply(this, before(given));
    } finally {
      isWithin = false;
    }
  };
  const atEnd = (given) => {
    decorate(response, response.statusCode, parts);
    return given;
  };
  response.writeHead = decorated(writeHead, ([status, reason, given]) => {
    const isReason = typeof reason === "string";
    const rest = setGiven(response, isReason ? given : (given ?? reason));
    decorate(response, status, parts);
    return isReason ? [status, reason, ...rest] : [status, ...rest];
  });
  response.end = decorated(end, atEnd);
  response.flushHeaders = decorated(flushHeaders, atEnd);
}

function decorate(response, status, { headers, removed, exposed }) {
  // What changes protocols, and what comes before an answer.
  if (status < 200) return;
  if (!isRefusal(status)) {
    for (const name of removed) response.removeHeader(name);
    setAll(response, headers);
  }
  if (response.hasHeader("access-control-allow-origin")) {
    expose({ get: (name) => response.getHeader(name), set: (name, value) => response.setHeader(name, value) }, exposed);
  }
}

/**
 * Sets headers as `writeHead` takes them: a record, or a list of names and values, in pairs or in turn. What is none of these is
 * returned, for `writeHead` to say so.
 */
function setGiven(response, given) {
  if (!given) return [];
  const isPairs = Array.isArray(given) && Array.isArray(given[0]);
  const list = Array.isArray(given) ? (isPairs ? given.flat() : given) : Object.entries(given).flat(1);
  if (list.length % 2 !== 0) return [given];
  const values = new Map();
  for (let i = 0; i < list.length; i += 2) {
    if (list[i + 1] === undefined) continue;
    const name = String(list[i]);
    const key = name.toLowerCase();
    const known = values.get(key);
    values.set(key, known ? [name, [known[1], list[i + 1]].flat()] : [name, list[i + 1]]);
  }
  for (const [name, value] of values.values()) response.setHeader(name, value);
  return [];
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
    return { getReader: () => readerOf(this.#message, body) };
  }
}

/** Reads a body; where middleware before this one has read it, what that has made of it. */
function readerOf(message, body) {
  if (message.readableEnded) {
    const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body ?? "");
    return new Blob([text]).stream().getReader();
  }
  // What is left of a body that is too long does not end the connection: the client gets its answer.
  const chunks = message.iterator({ destroyOnReturn: false });
  return {
    read: () => chunks.next(),
    cancel: async () => {
      await chunks.return();
      // Or the next request on the connection would wait behind it.
      message.resume();
    },
  };
}

function urlOf({ originalUrl, url, headers, socket }) {
  const scheme = socket?.encrypted ? "https" : "http";
  const named = headers.host ?? headers[":authority"] ?? "";
  const host = HOST.test(named) ? named : "localhost";
  const target = originalUrl ?? url;
  if (target.startsWith("/")) return `${scheme}://${host}${target}`;
  // Of a request to a proxy it is a whole URL, of any scheme, whose path servers take for the path; of `OPTIONS *` it is a star.
  const [whole] = /^[a-z][a-z0-9+.-]*:\/\/[^/\\?#]*/i.exec(target) ?? [""];
  const rest = target.slice(whole.length);
  return `${scheme}://${host}${rest.startsWith("/") ? "" : "/"}${rest}`;
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

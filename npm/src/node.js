/** Middleware for servers on `node:http`: Express, Connect, Next's API routes (types/node.d.ts). */
import { expose, isRefusal } from "./responses.js";
import { partsOf } from "./verdict.js";
import { limiterOf } from "./wrapping.js";

export function rateLimit(options = {}) {
  const limiter = limiterOf(options);
  return (request, response, next) => {
    const act = (verdict) => {
      // If the client has disconnected, nobody reads an answer.
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

/** A connection's address. Empty after the connection has ended; `undefined` on a Unix socket, which has neither a remote nor a local address. */
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
 * Decorates the application's response just before its headers are sent, as a Worker in front of it would. Earlier, its status and its
 * own headers are not known. On HTTP/2, `end` and `flushHeaders` send headers without calling `writeHead`.
 */
function decorateLater(response, parts) {
  const { writeHead, end, flushHeaders } = response;
  // These methods call each other, so only the outermost decorates. After a call that throws, the next one decorates again.
  let isWithin = false;
  const decorated = (method, before) => function (...args) {
    if (isWithin || response.headersSent) return method.apply(this, args);
    isWithin = true;
    try {
      return method.apply(this, before(args));
    } finally {
      isWithin = false;
    }
  };
  const atEnd = (args) => {
    decorate(response, response.statusCode, parts);
    return args;
  };
  response.writeHead = decorated(writeHead, ([status, reason, headers]) => {
    const isReason = typeof reason === "string";
    const rest = setHeaders(response, isReason ? headers : (headers ?? reason));
    decorate(response, status, parts);
    return isReason ? [status, reason, ...rest] : [status, ...rest];
  });
  response.end = decorated(end, atEnd);
  response.flushHeaders = decorated(flushHeaders, atEnd);
}

function decorate(response, status, { headers, removed, exposed }) {
  // Interim responses and a change of protocols (101) are sent unchanged.
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
 * Sets headers in any form that `writeHead` takes: a record, a list of pairs, or a list in which names and values alternate. An invalid
 * list is returned as the remaining arguments, so that `writeHead` itself throws.
 */
function setHeaders(response, headers) {
  if (!headers) return [];
  const isPairs = Array.isArray(headers) && Array.isArray(headers[0]);
  const list = Array.isArray(headers) ? (isPairs ? headers.flat() : headers) : Object.entries(headers).flat(1);
  if (list.length % 2 !== 0) return [headers];
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

/** The characters of a host and a port. Any other in `Host` could change which part of the URL is read as the path. */
const HOST = /^[a-z0-9._:[\]-]+$/i;

/** The parts of a `Request` that the module reads. Making a whole `Request` costs more than a decision. */
class NodeRequest {
  #message;

  constructor(message) {
    this.#message = message;
    this.method = message.method;
    this.url = urlOf(message);
    this.headers = new NodeHeaders(message.headers);
  }

  /** The body, or `null`. It is read once at most, and only for the control plane. */
  get body() {
    const { headers, body, stream } = this.#message;
    const isAnnounced = headers["transfer-encoding"] !== undefined || Number(headers["content-length"]) > 0;
    // On HTTP/2 a request can have a body that no header announces.
    if (!isAnnounced && stream?.endAfterHeaders !== false) return null;
    return { getReader: () => readerOf(this.#message, body) };
  }
}

/** A reader of the body. If earlier middleware has parsed the body, the reader returns what that middleware made of it. */
function readerOf(message, body) {
  if (message.readableEnded) {
    const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body ?? "");
    return new Blob([text]).stream().getReader();
  }
  // The rest of a body that is too long must not end the connection: the client still gets its answer.
  const chunks = message.iterator({ destroyOnReturn: false });
  return {
    read: () => chunks.next(),
    cancel: async () => {
      await chunks.return();
      // Discards the rest. Otherwise the next request on the connection would wait behind it.
      message.resume();
    },
  };
}

function urlOf({ originalUrl, url, headers, socket }) {
  const scheme = socket?.encrypted ? "https" : "http";
  const claimedHost = headers.host ?? headers[":authority"] ?? "";
  const host = HOST.test(claimedHost) ? claimedHost : "localhost";
  const target = originalUrl ?? url;
  if (target.startsWith("/")) return `${scheme}://${host}${target}`;
  // A target in the form for proxies is a whole URL of any scheme, and servers use its path. The target of `OPTIONS *` is a star.
  const [schemeAndHost] = /^[a-z][a-z0-9+.-]*:\/\/[^/\\?#]*/i.exec(target) ?? [""];
  const rest = target.slice(schemeAndHost.length);
  return `${scheme}://${host}${rest.startsWith("/") ? "" : "/"}${rest}`;
}

/** The headers of `node:http`, whose names are in lower case and whose repeated lines are joined, in the form of `Headers`. */
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

import { LimiterError } from "./errors.js";
import { expose, isForPages, isRefusal } from "./responses.js";

/** Under this key only the framework wrappers read a verdict. `Symbol.for` is the same in two copies of the package. */
const PARTS = Symbol.for("edge-limiter.verdict");

/** The verdict on a request (types/index.d.ts). */
export class Verdict {
  constructor(parts) {
    Object.defineProperty(this, PARTS, { value: parts });
    this.allowed = parts.allowed;
    this.policy = parts.policy;
    this.limit = parts.limit;
    this.remaining = parts.remaining;
    this.reset = parts.reset;
    this.retryAfter = parts.retryAfter;
    this.blocked = parts.blocked;
    this.exempt = parts.exempt;
    this.degraded = parts.degraded;
    this.status = parts.status;
    this.headers = parts.headers;
  }

  get response() {
    const { allowed, body, status, headers } = this[PARTS];
    return allowed ? undefined : new Response(body, { status, headers });
  }

  decorate(response) {
    const { allowed, exposed, removed, headers } = this[PARTS];
    const { status } = response;
    // A response with such a status cannot be constructed, and one that changes protocols (101) cannot be copied.
    if (!allowed || status < 200 || status > 599) return response;
    const decorated = !isRefusal(status);
    const exposes = isForPages(response.headers);
    if (!decorated && !exposes) return response;
    const copy = new Response(response.body, response);
    if (decorated) {
      for (const name of removed) copy.headers.delete(name);
      for (const name of Object.keys(headers)) copy.headers.set(name, headers[name]);
    }
    if (exposes) expose(copy.headers, exposed);
    return copy;
  }
}

/** For servers without `Response`: the answer's body, the headers to remove from the application's response, and those to expose to web pages. */
export function partsOf(verdict) {
  const parts = verdict?.[PARTS];
  if (parts === undefined) throw new LimiterError("bad_argument", "limiter must come from createLimiter, and its verdicts must be passed on unchanged.");
  return parts;
}

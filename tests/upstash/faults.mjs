/**
 * Faults that tests can inject between a caller and Upstash.
 *
 * A fault is an object with a `kind`. Every other field is optional:
 *
 * | kind           | the request                                                                       | fields         |
 * | -------------- | --------------------------------------------------------------------------------- | -------------- |
 * | `delay`        | is answered after `ms` milliseconds                                               | `ms`           |
 * | `hang`         | is never answered                                                                 |                |
 * | `reset`        | has its connection reset                                                          |                |
 * | `truncated`    | runs; the connection ends after half of the body that `Content-Length` announces  |                |
 * | `cut`          | runs; a complete HTTP answer contains half of the JSON                            |                |
 * | `status`       | is answered `status` (500), `body` (a JSON error), `contentType`, `retryAfter`    | these four     |
 * | `html`         | is answered `status` (200) with an HTML page                                      | `status`       |
 * | `empty`        | is answered `status` (200) without a body                                         | `status`       |
 * | `result`       | is answered `{"result": value}`, whatever its command                             | `value`        |
 * | `quota`        | is answered as if the plan were used up                                           |                |
 * | `unauthorized` | is answered 401                                                                   |                |
 * | `noscript`     | runs, but every `EVALSHA` in it answers `NOSCRIPT`                                |                |
 *
 * With each, `times: n` ends the fault after n requests, and `after: true` lets Redis run the request before the fault takes
 * effect. The caller cannot see the difference, and a repeated request counts twice. `truncated`, `cut` and `noscript` always run it.
 */

const FIELDS = {
  delay: ["ms"],
  hang: [],
  reset: [],
  truncated: [],
  cut: [],
  status: ["status", "body", "contentType", "retryAfter"],
  html: ["status"],
  empty: ["status"],
  result: ["value"],
  quota: [],
  unauthorized: [],
  noscript: [],
};

const ALWAYS_RUN = new Set(["truncated", "cut", "noscript"]);

export const UNAUTHORIZED = "WRONGPASS invalid or missing auth token";

const OVER_QUOTA =
  "ERR max requests limit exceeded. Limit: 500000, Usage: 500000. See https://upstash.com/docs/redis/troubleshooting/max_requests_limit for details";

const PAGE = "<!DOCTYPE html>\n<html><head><title>Error</title></head><body><h1>Something in between answered</h1></body></html>\n";

/** The faults that are set. If there are several, the first applies until its `times` are used up, and then the next. */
export class Faults {
  #list = [];

  /**
   * Replaces the faults.
   *
   * @param {...object} faults
   * @throws {TypeError} for an unknown kind or field, or an invalid value, because a mistyped fault would let a test pass
   */
  set(...faults) {
    this.#list = faults.map(checked);
  }

  clear() {
    this.#list = [];
  }

  /** Returns the faults that are set, with the `times` that remain. */
  active() {
    return this.#list.map((fault) => ({ ...fault }));
  }

  /** Returns the fault for the next request, or `undefined`. Uses up one of its `times`. */
  take() {
    const fault = this.#list[0];
    if (fault?.times !== undefined && --fault.times === 0) this.#list.shift();
    return fault;
  }
}

/** Returns the canned answer of a fault that has one: `{status, body, contentType, headers}`. */
export function canned({ kind, status, body, contentType, retryAfter, value }) {
  const json = "application/json";
  switch (kind) {
    case "status":
      return {
        status: status ?? 500,
        body: body ?? JSON.stringify({ error: `ERR injected fault: ${status ?? 500}` }),
        contentType: contentType ?? json,
        headers: retryAfter === undefined ? {} : { "Retry-After": String(retryAfter) },
      };
    case "html":
      return { status: status ?? 200, body: PAGE, contentType: "text/html; charset=utf-8" };
    case "empty":
      return { status: status ?? 200, body: "", contentType: json };
    case "result":
      return { status: 200, body: JSON.stringify({ result: value ?? null }), contentType: json };
    case "quota":
      return { status: 400, body: JSON.stringify({ error: OVER_QUOTA }), contentType: json };
    case "unauthorized":
      return { status: 401, body: JSON.stringify({ error: UNAUTHORIZED }), contentType: json };
  }
  throw new TypeError(`the fault ${kind} has no canned answer`);
}

function checked(fault) {
  const { kind, times, after, ...rest } = fault ?? {};
  if (!Object.hasOwn(FIELDS, kind ?? "")) throw new TypeError(`unknown kind of fault: ${kind}`);
  for (const field of Object.keys(rest)) {
    if (!FIELDS[kind].includes(field)) throw new TypeError(`the fault ${kind} has no field ${field}`);
  }
  if (times !== undefined && !(Number.isInteger(times) && times > 0)) throw new TypeError("times must be a positive integer");
  if (after !== undefined && typeof after !== "boolean") throw new TypeError("after must be a boolean");
  if (after === false && ALWAYS_RUN.has(kind)) throw new TypeError(`the fault ${kind} always runs the request, so after cannot be false`);
  if (kind === "delay" && !(rest.ms >= 0)) throw new TypeError("ms must be a number of at least 0");
  if (rest.status !== undefined && !(Number.isInteger(rest.status) && rest.status >= 200 && rest.status <= 599)) {
    throw new TypeError("status must be an integer from 200 to 599");
  }
  return { ...fault };
}

/** Helpers for responses of the application or the origin, to which the limiter adds headers. */

const EXPOSED = "access-control-expose-headers";
const ALLOWED_ORIGIN = "access-control-allow-origin";
const TOO_MANY_REQUESTS = 429;
const SERVICE_UNAVAILABLE = 503;

/** Whether the application refuses the request itself. Such a response keeps its own rate-limit headers. */
export const isRefusal = (status) => status === TOO_MANY_REQUESTS || status === SERVICE_UNAVAILABLE;

/** Whether web pages of another origin may read the response (CORS). */
export const isForPages = (headers) => headers.has(ALLOWED_ORIGIN);

/** Adds header names to those that a web page of another origin may read. */
export function expose(headers, names) {
  const own = headers.get(EXPOSED);
  if (String(own ?? "").endsWith(names)) return;
  headers.set(EXPOSED, own ? `${own}, ${names}` : names);
}

/** What the limiter does to a response of the application or the origin. */

const EXPOSED = "access-control-expose-headers";
const ALLOWED_ORIGIN = "access-control-allow-origin";
const TOO_MANY_REQUESTS = 429;
const SERVICE_UNAVAILABLE = 503;

/** An own refusal keeps its numbers. */
export const isRefusal = (status) => status === TOO_MANY_REQUESTS || status === SERVICE_UNAVAILABLE;

/** Whether pages of another origin may read it. */
export const isForPages = (headers) => headers.has(ALLOWED_ORIGIN);

/** Adds names to those of the headers that a page may read. */
export function expose(headers, names) {
  const own = headers.get(EXPOSED);
  if (String(own ?? "").endsWith(names)) return;
  headers.set(EXPOSED, own ? `${own}, ${names}` : names);
}

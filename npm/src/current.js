/**
 * What a task needs of its request: the request, the setup that decides it, the caller's address if no header has it, and the names of
 * the headers. The names are listed when the module first asks for them and then kept, because listing them calls the runtime once for each.
 * (A `WeakMap` from requests to names would cost more than the listing: its entries are garbage that is collected late.)
 */
export const incomingOf = (request, setup, address) => ({ request, setup, address, names: undefined });

/**
 * The request of the task that runs. The module reads it through the functions below, which must not call the module: it is
 * in the middle of a call.
 */
let current;

export function setCurrent(incoming) {
  current = incoming;
}

/** How much of a header's value the module reads, in characters (src/headers.rs). The rest is not copied. */
const MAX_HEADER_CHARS = 16 * 1024;

export function header(name) {
  return current?.request.headers.get(name)?.slice(0, MAX_HEADER_CHARS);
}

/** The names of a request's headers, in lower case. May be an iterator that can be used only once. */
export const namesOf = ({ request, names }) => names ?? request.headers.keys();

/** The names of a request's headers as a list, which is kept for the next call. */
const listedNames = (incoming) => (incoming.names ??= [...incoming.request.headers.keys()]);

/** Whether every origin reads the name alike: an origin that turns headers into variables may read `x_real_ip` as `x-real-ip` (src/headers.rs). */
export const isPlain = (name) => !/[^a-z0-9-]/.test(name);

/** The plain name that such an origin may read in `name`. */
export const plainName = (name) => name.replace(/[^a-z0-9-]/g, "-");

/**
 * The values of all headers that an origin may read as one of `names`, a list of names separated by commas. The values are
 * separated by commas too, and cut after `MAX_HEADER_CHARS`.
 */
export function headersLike(names) {
  if (!current) return undefined;
  const wanted = names.split(",");
  const found = listedNames(current).filter((name) => wanted.includes(isPlain(name) ? name : plainName(name)));
  if (found.length === 0) return undefined;
  return found.map((name) => current.request.headers.get(name)).join().slice(0, MAX_HEADER_CHARS);
}

/** The names of all headers, separated by commas. */
export function headerNames() {
  return current && listedNames(current).join();
}

/** The country from which the request came, as Cloudflare reports it. */
export function country() {
  return textOrUndefined(current?.request.cf?.country);
}

/** The number of the autonomous system from which the request came, as Cloudflare reports it; 0 if it is not known. */
export function asn() {
  return Number.isInteger(current?.request.cf?.asn) ? current.request.cf.asn : 0;
}

/** Whether the request has a body that is not empty. A request with `Content-Length: 0` has a stream too. */
export function hasBody() {
  return Boolean(current?.request.body) && current.request.headers.get("content-length") !== "0";
}

/** Whether the task that runs has to go on even if its client disconnects. */
let outlivesClient = false;

/** The module calls this for the task that runs. */
export function outlive() {
  outlivesClient = true;
}

/** Whether the module has called `outlive` since this was last asked. Resets it. */
export function takeOutlivesClient() {
  const value = outlivesClient;
  outlivesClient = false;
  return value;
}

/** The data center that received the request. The runtime reports it, not a header. Self-hosted workerd knows none; `wrangler dev` makes one up. */
export function dataCenter() {
  return textOrUndefined(current?.request.cf?.colo);
}

const textOrUndefined = (value) => (typeof value === "string" ? value : undefined);

/**
 * A request, the setup that it is decided under, the caller's address where no header has it, and the names of the request's headers
 * once the module has asked for them: listing them is a call of the runtime for each. (A
 * `WeakMap` from requests to names costs more than the listing: its entries are garbage that is collected late.)
 */
export const incomingOf = (request, setup, address) => ({ request, setup, address, names: undefined });

/** What arrived as the request whose task runs, for what the module reads of it while it runs. These call nothing of the module. */
let current;

export function setCurrent(incoming) {
  current = incoming;
}

/** The most of a header's value that is read (src/limiter/request.rs), in characters: the rest is not copied. */
const MAX_HEADER_CHARS = 16 * 1024;

export function header(name) {
  return current?.request.headers.get(name)?.slice(0, MAX_HEADER_CHARS);
}

/** The names of a request's headers, in lower case, to be gone through once. */
export const namesOf = ({ request, names }) => names ?? request.headers.keys();

/** The same as a list, which is kept. */
const listed = (incoming) => (incoming.names ??= [...incoming.request.headers.keys()]);

/** Whether an origin that keeps headers as variables may read another name in this one (src/headers.rs). */
export const isOdd = (name) => /[^a-z0-9-]/.test(name);

/** The name that it then reads. */
export const asVariable = (name) => name.replace(/[^a-z0-9-]/g, "-");

/** The values of all headers that an origin may read as one of `wanted`, names by commas; by commas, and no longer than is read. */
export function headersLike(wanted) {
  if (!current) return undefined;
  const list = wanted.split(",");
  const found = listed(current).filter((name) => list.includes(isOdd(name) ? asVariable(name) : name));
  if (found.length === 0) return undefined;
  return found.map((name) => current.request.headers.get(name)).join().slice(0, MAX_HEADER_CHARS);
}

/** The names of all headers, by commas. */
export function headerNames() {
  return current && listed(current).join();
}

/** Where Cloudflare says that the request came from. */
export function country() {
  return text(current?.request.cf?.country);
}

export function asn() {
  return Number.isInteger(current?.request.cf?.asn) ? current.request.cf.asn : 0;
}

/** Whether it has a body that is not empty. One of no length has a stream as well. */
export function hasBody() {
  return Boolean(current?.request.body) && current.request.headers.get("content-length") !== "0";
}

/** Whether the task that runs is to go on even if its client disconnects. */
let outlives = false;

export function outlive() {
  outlives = true;
}

/** Whether the task that ran last said so. */
export function takeOutlives() {
  const said = outlives;
  outlives = false;
  return said;
}

/** The data center that took it: the runtime says so, no header. Self-hosted workerd knows none; `wrangler dev` makes one up. */
export function dataCenter() {
  return text(current?.request.cf?.colo);
}

const text = (value) => (typeof value === "string" ? value : undefined);

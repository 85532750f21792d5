/** The request whose task runs, for what the module reads of it while it runs. These call nothing of the module. */
let current;

export function setCurrent(request) {
  current = request;
}

/** The most of a header's value that is read (src/limiter/request.rs), in characters: the rest is not copied. */
const MAX_HEADER_CHARS = 16 * 1024;

export function header(name) {
  return current?.headers.get(name)?.slice(0, MAX_HEADER_CHARS);
}

/** The names of a request's headers, in lower case. Listing them costs as much as copying them, so it is done once. */
const names = new WeakMap();

export function namesOf(request) {
  let known = names.get(request);
  if (!known) names.set(request, (known = [...request.headers.keys()]));
  return known;
}

/** How origins read a name that keep headers as variables (src/headers.rs). */
export const asVariable = (name) => name.replace(/[^a-z0-9-]/g, "-");

/** The values of all headers that an origin may read as one of `wanted`, names by commas; by commas, and no longer than is read. */
export function headersLike(wanted) {
  if (!current) return undefined;
  const list = wanted.split(",");
  const found = namesOf(current).filter((name) => list.includes(asVariable(name)));
  if (found.length === 0) return undefined;
  return found.map((name) => current.headers.get(name)).join().slice(0, MAX_HEADER_CHARS);
}

/** The names of all headers, by commas. */
export function headerNames() {
  return current && namesOf(current).join();
}

/** Where Cloudflare says that the request came from. */
export function country() {
  return text(current?.cf?.country);
}

export function asn() {
  return Number.isInteger(current?.cf?.asn) ? current.cf.asn : 0;
}

/** Whether it has a body that is not empty. One of no length has a stream as well. */
export function hasBody() {
  return Boolean(current?.body) && current.headers.get("content-length") !== "0";
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
  return text(current?.cf?.colo);
}

const text = (value) => (typeof value === "string" ? value : undefined);

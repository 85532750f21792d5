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

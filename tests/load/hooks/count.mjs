/**
 * Who was answered what, as Artillery's own counters: `NAME.admitted`, `.denied`, `.refused` (another 4xx) and `.failed`, NAME
 * being the request's `name` in the YAML. Of these, `.blocked`, `.unexplained` (a 429 without what a 429 has to say),
 * `.degraded` (decided by memory in place of Redis) and `.opened` (an answer that holds what only a token opens). And `.latency`, a
 * histogram in ms to the first byte.
 */

const PUBLIC = ["breaker", "status", "store", "version"];

export async function count({ name, url }, response, context, events) {
  tally(events, name, response.statusCode, response.headers, response.body);
  events.emit("histogram", `${name}.latency`, response.timings.phases.firstByte);
  // Where there are several limiters: which of them admitted.
  if (context.vars.limiter && response.statusCode === 200) events.emit("counter", `${name}@${new URL(url).port}.admitted`, 1);
}

export function tally(events, name, status, headers, body) {
  const add = (what) => events.emit("counter", `${name}.${what}`, 1);
  add(outcome(status));
  if (headers["x-ratelimit-store"]) add("degraded");
  if (status === 200 && isGuarded(body)) add("opened");
  if (status !== 429) return;
  const { blocked, explained } = denial(headers, body);
  if (blocked) add("blocked");
  if (!explained) add("unexplained");
}

function outcome(status) {
  if (status >= 200 && status < 300) return "admitted";
  if (status === 429) return "denied";
  return status >= 400 && status < 500 ? "refused" : "failed";
}

/** Of the control plane's answers, those that are not the public part of its health; of traffic's, none. */
function isGuarded(body) {
  try {
    const fields = Object.keys(JSON.parse(body));
    return !fields.includes("admitted") && !fields.every((field) => PUBLIC.includes(field));
  } catch {
    return false;
  }
}

function denial(headers, body) {
  const wait = Number(headers["retry-after"]);
  try {
    const { error, blocked } = JSON.parse(body);
    return { blocked: blocked === true, explained: Boolean(error) && Number.isInteger(wait) && wait > 0 };
  } catch {
    return { blocked: false, explained: false };
  }
}

/**
 * Counts answers in Artillery's counters: `NAME.admitted`, `.denied`, `.refused` (another 4xx) and `.failed`. NAME is the request's
 * `name` in the YAML. Some of these also count as `.blocked`, `.unexplained` (a 429 without an error or a Retry-After), `.degraded`
 * (decided by memory in place of Redis) or `.opened` (an answer that needs a token). `.latency` is a histogram of the ms to the first
 * byte.
 */

const PUBLIC = ["breaker", "status", "store", "version"];

export async function count({ name, url }, response, context, events) {
  tally(events, name, response.statusCode, response.headers, response.body);
  events.emit("histogram", `${name}.latency`, response.timings.phases.firstByte);
  // With several limiters, also count admissions by limiter.
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

/** Returns whether a body is an answer of the control plane that needs a token, that is neither public health nor an answer to traffic. */
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

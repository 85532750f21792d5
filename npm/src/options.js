/** The options of the package's limiter and of its calls, the environment that they select, and the caller's address. */
import { addressHeader, defaultEnv, defaultWaitUntil, endsBackgroundWork } from "#platform";
import { LimiterError } from "./errors.js";
import { clientOf } from "./transport/client.js";
import { isRead } from "./variables.js";

const OPTIONS = ["env", "redis", "waitUntil", "trustProxy"];

/** The options that every call takes. */
export const CALL_OPTIONS = ["waitUntil", "address"];

const MAX_PROXIES = 32;

/** Stands for `CLIENT_IP_HEADER` when the address is the connection's. A header of this name is never read. */
const CONNECTION_PLACEHOLDER = "x-edge-limiter-ip";

/** Checks the options of `createLimiter`, and fills in defaults. */
export function checkOptions(options) {
  const { env, redis, waitUntil, trustProxy = 0 } = checkNames(options, OPTIONS);
  if (env !== undefined && (env === null || typeof env !== "object")) throw new LimiterError("bad_argument", "env must be an object of variables, such as process.env.");
  checkWaitUntil(waitUntil);
  if (!Number.isInteger(trustProxy) || trustProxy < 0 || trustProxy > MAX_PROXIES) {
    throw new LimiterError("bad_argument", `trustProxy must be a whole number, 0 to ${MAX_PROXIES}: how many of your proxies add to X-Forwarded-For.`);
  }
  return { env, client: redis === undefined ? undefined : clientOf(redis), waitUntil, trustProxy };
}

/** Returns `options`, or throws if one has a name that is not in `names`: a misspelt option would silently do nothing. */
export function checkNames(options, names) {
  if (options === undefined || options === null) return NO_OPTIONS;
  if (typeof options !== "object") throw new LimiterError("bad_argument", `Options must be an object with any of ${names.join(", ")}.`);
  for (const name in options) if (!names.includes(name)) throw new LimiterError("bad_argument", `There is no option ${name}: use ${names.join(", ")}.`);
  return options;
}

const NO_OPTIONS = Object.freeze({});

function checkWaitUntil(waitUntil) {
  if (waitUntil !== undefined && typeof waitUntil !== "function") {
    throw new LimiterError("bad_argument", "waitUntil must be a function: (promise) => context.waitUntil(promise).");
  }
}

/** Reads a limiter's variables, and finds out where its callers' addresses are. */
export function readEnvironment({ env = defaultEnv(), client, trustProxy }) {
  const configuredHeader = env.CLIENT_IP_HEADER;
  const isConfigured = configuredHeader !== undefined && configuredHeader !== "";
  if (isConfigured && trustProxy > 0) {
    throw new LimiterError("bad_argument", "Set CLIENT_IP_HEADER or trustProxy, not both: each says where the caller's address is.");
  }
  const platformHeader = addressHeader(env);
  const byConnection = !isConfigured && platformHeader === undefined;
  // A copy, because the application may change its own object later.
  const copy = Object.fromEntries(Object.entries(env).filter(([name]) => isRead(name)));
  if (!isConfigured) copy.CLIENT_IP_HEADER = platformHeader ?? CONNECTION_PLACEHOLDER;
  const vars = shared(copy, client);
  return { vars, byConnection, needsWaitUntil: endsBackgroundWork(env), platformHeader };
}

/**
 * The environments of this process, by their variables and the application's client. Limiters with equal ones share one environment. The
 * module keeps as many (src/driver.rs).
 */
const environments = new Map();
const MAX_ENVIRONMENTS = 100;

function shared(vars, client) {
  const text = JSON.stringify([client?.number, ...Object.entries(vars).sort()]);
  const existing = environments.get(text);
  if (existing !== undefined) return existing;
  if (environments.size >= MAX_ENVIRONMENTS) {
    throw new LimiterError(
      "refused",
      `This process already has limiters with ${MAX_ENVIRONMENTS} different configurations. Create one limiter for each configuration, once, and share it. Limits that differ can be policies of one limiter.`,
    );
  }
  environments.set(text, vars);
  return vars;
}

/**
 * The caller's address if no header has it; `undefined` if the module reads it from the header.
 *
 * @param {{byConnection: boolean, vars: object, platformHeader: string | undefined}} environment
 * @param {{header: string}} setup `header` is the header that the module reads. It differs from `CLIENT_IP_HEADER` if that is no valid name.
 * @param {unknown} connection the connection's own address
 */
export function addressOf({ byConnection, vars, platformHeader }, setup, trustProxy, request, connection) {
  if (!byConnection) {
    const isConfigured = setup.header === String(vars.CLIENT_IP_HEADER).trim().toLowerCase();
    // A header that is read in place of the configured one can be forged by clients, unless the platform sets it. Then the address is unknown.
    return isConfigured || setup.header === platformHeader ? undefined : "";
  }
  const isKnown = connection !== undefined && connection !== null;
  if (isKnown && typeof connection !== "string") throw new LimiterError("bad_argument", "address must be a string: the address of the connection.");
  if (trustProxy > 0) return forwardedFor(request.headers.get("x-forwarded-for") ?? "", connection, trustProxy);
  if (!isKnown) {
    throw new LimiterError(
      "no_address",
      "Nothing says who the caller is. Set CLIENT_IP_HEADER to the header in which your platform puts the caller's address (on Vercel, VERCEL=1 is enough), " +
        "pass { address } from the server's connection, or set trustProxy to the number of your proxies that add to X-Forwarded-For.",
    );
  }
  return connection;
}

/**
 * The entry of `X-Forwarded-For` at `places` from the right, where 1 is the last entry. In a shorter list it is the first entry; in place of an
 * empty entry, the connection's address.
 */
function forwardedFor(list, connection, places) {
  let end = list.length;
  let entry = "";
  for (let place = 0; place < places && end > 0; place += 1) {
    const comma = list.lastIndexOf(",", end - 1);
    entry = list.slice(comma + 1, end).trim();
    end = comma;
  }
  return entry === "" ? (connection ?? "") : entry;
}

/** The function that keeps background work alive; `undefined` if the platform needs one, there is none, and the call can do without. */
export function waitUntilOf(call, options, { needsWaitUntil }, isNeeded) {
  checkWaitUntil(call.waitUntil);
  const waitUntil = call.waitUntil ?? options.waitUntil ?? defaultWaitUntil();
  if (waitUntil !== undefined) return waitUntil;
  if (!needsWaitUntil) return () => {};
  if (!isNeeded) return undefined;
  throw new LimiterError(
    "no_wait_until",
    "This platform ends background work with the request. Pass { waitUntil: (promise) => context.waitUntil(promise) } to the call or to createLimiter, " +
      "where context is the request's context or event.",
  );
}

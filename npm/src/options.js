/** What a limiter of the package is created with, and who called it: read once, with errors that say what to do. */
import { addressHeader, defaultEnv, defaultWaitUntil, endsBackgroundWork } from "#platform";
import { LimiterError } from "./errors.js";
import { clientOf } from "./transport/client.js";
import { isRead } from "./variables.js";

const OPTIONS = ["env", "redis", "waitUntil", "trustProxy"];

/** Options of a call. */
export const CALL_OPTIONS = ["waitUntil", "address"];

const MAX_PROXIES = 32;

/** In place of the name of a header where the address is the connection's: no header of that name is read. */
const OF_CONNECTION = "x-edge-limiter-ip";

/** Options that are known and in their ranges. */
export function checked(options) {
  const { env, redis, waitUntil, trustProxy = 0 } = known(options, OPTIONS);
  if (env !== undefined && (env === null || typeof env !== "object")) throw new LimiterError("bad_argument", "env must be an object of variables.");
  checkWaitUntil(waitUntil);
  if (!Number.isInteger(trustProxy) || trustProxy < 0 || trustProxy > MAX_PROXIES) {
    throw new LimiterError("bad_argument", `trustProxy must be a number of proxies, 0 to ${MAX_PROXIES}: how many of yours add to X-Forwarded-For.`);
  }
  return { env, client: redis === undefined ? undefined : clientOf(redis), waitUntil, trustProxy };
}

/** Options, all of which have one of these names: a misspelt one would be without effect. */
export function known(options, names) {
  if (options === undefined || options === null) return NONE;
  if (typeof options !== "object") throw new LimiterError("bad_argument", `Options must be an object of ${names.join(", ")}.`);
  for (const name in options) if (!names.includes(name)) throw new LimiterError("bad_argument", `There is no option ${name}: use ${names.join(", ")}.`);
  return options;
}

const NONE = Object.freeze({});

function checkWaitUntil(waitUntil) {
  if (waitUntil !== undefined && typeof waitUntil !== "function") {
    throw new LimiterError("bad_argument", "waitUntil must be a function: (promise) => context.waitUntil(promise).");
  }
}

/** The variables of a limiter, and where its callers' addresses are. */
export function readEnvironment({ env = defaultEnv(), client, trustProxy }) {
  const named = env.CLIENT_IP_HEADER;
  const isNamed = named !== undefined && named !== "";
  if (isNamed && trustProxy > 0) {
    throw new LimiterError("bad_argument", "Set CLIENT_IP_HEADER or trustProxy, not both: each says where the caller's address is.");
  }
  const ofPlatform = addressHeader(env);
  const byConnection = !isNamed && ofPlatform === undefined;
  // A copy, which nobody changes.
  const own = Object.fromEntries(Object.entries(env).filter(([name]) => isRead(name)));
  if (!isNamed) own.CLIENT_IP_HEADER = ofPlatform ?? OF_CONNECTION;
  const vars = shared(own, client);
  return { vars, byConnection, needsWaitUntil: endsBackgroundWork(env), ofPlatform };
}

/** Environments of this process, by their text and the application's client: like ones are one. The module keeps as many (src/driver.rs). */
const environments = new Map();
const MAX_ENVIRONMENTS = 100;

function shared(vars, client) {
  const text = JSON.stringify([client?.number, ...Object.entries(vars).sort()]);
  const like = environments.get(text);
  if (like !== undefined) return like;
  if (environments.size >= MAX_ENVIRONMENTS) {
    throw new LimiterError(
      "refused",
      `This process has limiters of ${MAX_ENVIRONMENTS} configurations already. Make one for each configuration, once, and share it: limits that differ can be policies of one.`,
    );
  }
  environments.set(text, vars);
  return vars;
}

/**
 * The caller's address, where no header has it; `undefined`: the header has it.
 *
 * @param {{byConnection: boolean, vars: object, ofPlatform: string | undefined}} environment
 * @param {{header: string}} setup the header that is read: another than the one that is named, if that cannot be a header
 * @param {unknown} connection the connection's own address
 */
export function addressOf({ byConnection, vars, ofPlatform }, setup, trustProxy, request, connection) {
  if (!byConnection) {
    const isRead = setup.header === String(vars.CLIENT_IP_HEADER).trim().toLowerCase();
    // Clients can write the one that is read in its place, unless it is the platform's: then nobody is known.
    return isRead || setup.header === ofPlatform ? undefined : "";
  }
  const isKnown = connection !== undefined && connection !== null;
  if (isKnown && typeof connection !== "string") throw new LimiterError("bad_argument", "address must be a text: the address of the connection.");
  if (trustProxy > 0) return forwardedFor(request.headers.get("x-forwarded-for") ?? "", connection, trustProxy);
  if (!isKnown) {
    throw new LimiterError(
      "no_address",
      "Nothing says who the caller is. Set CLIENT_IP_HEADER to the header with the caller's address that your platform sets (on Vercel, VERCEL=1 is enough), " +
        "pass { address } from the server's connection, or set trustProxy to the number of your proxies that add to X-Forwarded-For.",
    );
  }
  return connection;
}

/** The entry so many places from the right, where the connection's own address is the first; of fewer, the last one. */
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

/** Where background work goes; `undefined` where nothing keeps it alive, and the call can do without. */
export function waitUntilOf(call, options, { needsWaitUntil }, isNeeded) {
  checkWaitUntil(call.waitUntil);
  const waitUntil = call.waitUntil ?? options.waitUntil ?? defaultWaitUntil();
  if (waitUntil !== undefined) return waitUntil;
  if (!needsWaitUntil) return () => {};
  if (!isNeeded) return undefined;
  throw new LimiterError(
    "no_wait_until",
    "This platform ends background work with the request. Pass { waitUntil: (promise) => context.waitUntil(promise) } of the request's context or event, " +
      "to the call or to createLimiter.",
  );
}

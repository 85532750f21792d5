/** `limiter.redis`: the application's own keys, and some calls of the control plane as functions. */
import { LimiterError, isText } from "./errors.js";
import { checkNames } from "./options.js";

const MAX_KEYS_PER_DELETE = 1000;
const BLOCKS_PER_PAGE = 1000;

/** A block without a number of seconds lasts until it is lifted. */
const MAX_BLOCK_SECONDS = 366 * 24 * 60 * 60;
const MAX_EXPIRY_SECONDS = 10 * 365 * 24 * 60 * 60;

/**
 * @param {{operate: (method: string, path: string, body?: string) => Promise<object>, apply: (words: unknown[]) => Promise<{result: unknown}>}} calls
 */
export function redisOf({ operate, apply }) {
  const result = async (...words) => (await apply(words)).result;
  const whole = (name, value, min, max) => {
    if (!Number.isInteger(value) || value < min || value > max) {
      throw new LimiterError("bad_argument", `${name} must be a whole number, ${min} to ${max}.`);
    }
    return value;
  };
  const checkedKey = (key) => {
    if (!isText(key)) throw new LimiterError("bad_key", "key must be a string of 1 to 512 bytes, without control characters.");
    return key;
  };
  const blockPath = (ip) => {
    if (!isText(ip) || ip === "") throw new LimiterError("bad_identifier", "ip must be an address such as 192.0.2.1, or a range such as 10.0.0.0/8.");
    return `/blocked/${encodeURIComponent(ip)}`;
  };
  return {
    get: async (key) => result("get", checkedKey(key)),
    set: async (key, value, options, ...rest) => {
      checkedKey(key);
      // Arguments of other clients, such as `"EX", 60`, would silently do nothing.
      if (rest.length > 0) throw new LimiterError("bad_argument", "set takes a key, a value and { ex: seconds }, and no further arguments.");
      const { ex } = checkNames(options, ["ex"]);
      if (!isText(value) && !Number.isFinite(value)) throw new LimiterError("bad_argument", "value must be a string or a finite number.");
      return ex === undefined ? result("set", key, String(value)) : result("set", key, String(value), whole("ex", ex, 1, MAX_EXPIRY_SECONDS));
    },
    incr: async (key) => result("incr", checkedKey(key)),
    expire: async (key, seconds) => result("expire", checkedKey(key), whole("seconds", seconds, 1, MAX_EXPIRY_SECONDS)),
    del: async (...keys) => {
      keys.forEach(checkedKey);
      let deleted = 0;
      for (let from = 0; from < keys.length; from += MAX_KEYS_PER_DELETE) deleted += await result("del", ...keys.slice(from, from + MAX_KEYS_PER_DELETE));
      return deleted;
    },

    logRateLimitEvent: async (event) => {
      const { identifier, policy, method = "", path = "" } = checkNames(event, ["identifier", "policy", "method", "path"]);
      if (![identifier, policy, method, path].every(isText)) throw new LimiterError("bad_argument", "An event must have identifier and policy, and may have method and path. All are strings.");
      await apply(["log", identifier, policy, method, path]);
    },
    getRateLimitEvents: async (limit = 100) => (await operate("GET", `/events?limit=${whole("limit", limit, 1, 1000)}`)).events,
    clearOldRateLimitEvents: async (olderThanMs) => {
      const seconds = Math.ceil(whole("olderThanMs", olderThanMs, 0, 0xffffffff * 1000) / 1000);
      return (await operate("DELETE", `/events?older_than_seconds=${seconds}`)).removed;
    },
    blockIP: async (ip, seconds, reason) => {
      // Checked here, because JSON would turn NaN into null, which means a block until lifted.
      if (seconds !== undefined) whole("seconds", seconds, 1, MAX_BLOCK_SECONDS);
      await operate("PUT", blockPath(ip), JSON.stringify({ seconds, reason }));
    },
    isIPBlocked: async (ip) => (await operate("GET", blockPath(ip))).blocked,
    unblockIP: async (ip) => (await operate("DELETE", blockPath(ip))).lifted,
    getBlockedIPs: async () => {
      const all = [];
      let cursor;
      do {
        const from = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
        const page = await operate("GET", `/blocked?limit=${BLOCKS_PER_PAGE}${from}`);
        for (const { target, until, since, by, reason } of page.blocked) all.push({ ip: target, since, by, reason: reason ?? undefined, until: until ?? undefined });
        ({ cursor } = page);
      } while (cursor);
      return all;
    },
    getSuspiciousIPs: async (limit = 10) => {
      const { callers } = await operate("GET", `/suspicious?limit=${whole("limit", limit, 1, 1000)}`);
      return callers.map(({ caller, denied, policies }) => ({ ip: caller, denied, policies }));
    },
  };
}

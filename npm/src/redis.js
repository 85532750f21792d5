/** `limiter.redis`: the application's own keys, and the control plane's calls under the names that applications use. */
import { LimiterError } from "./errors.js";

/** Blocks of a page. */
const PAGE = 1000;

/**
 * @param {{operate: (method: string, path: string, body?: string) => Promise<object>, apply: (words: unknown[]) => Promise<{result: unknown}>}} calls
 */
export function redisOf({ operate, apply }) {
  const result = async (...words) => (await apply(words)).result;
  const whole = (name, value, least, most) => {
    if (!Number.isInteger(value) || value < least || value > most) {
      throw new LimiterError("bad_argument", `${name} must be a whole number, ${least} to ${most}.`);
    }
    return value;
  };
  const blockPath = (ip) => {
    if (typeof ip !== "string" || ip === "") throw new LimiterError("bad_identifier", "ip must be an address such as 192.0.2.1, or a range such as 10.0.0.0/8.");
    return `/blocked/${encodeURIComponent(ip)}`;
  };
  return {
    get: async (key) => result("get", key),
    set: async (key, value, { ex } = {}) => {
      if (typeof value !== "string" && !Number.isFinite(value)) throw new LimiterError("bad_argument", "value must be a text or a number.");
      return ex === undefined ? result("set", key, String(value)) : result("set", key, String(value), ex);
    },
    incr: async (key) => result("incr", key),
    expire: async (key, seconds) => result("expire", key, seconds),
    del: async (...keys) => (keys.length === 0 ? 0 : result("del", ...keys)),

    logRateLimitEvent: async ({ identifier, policy, method = "", path = "" }) => {
      await apply(["log", identifier, policy, method, path]);
    },
    getRateLimitEvents: async (limit = 100) => (await operate("GET", `/events?limit=${whole("limit", limit, 1, 1000)}`)).events,
    clearOldRateLimitEvents: async (olderThanMs) => {
      const seconds = Math.ceil(whole("olderThanMs", olderThanMs, 0, 0xffffffff * 1000) / 1000);
      return (await operate("DELETE", `/events?older_than_seconds=${seconds}`)).removed;
    },
    blockIP: async (ip, seconds, reason) => {
      await operate("PUT", blockPath(ip), JSON.stringify({ seconds, reason }));
    },
    isIPBlocked: async (ip) => (await operate("GET", blockPath(ip))).blocked,
    unblockIP: async (ip) => (await operate("DELETE", blockPath(ip))).lifted,
    getBlockedIPs: async () => {
      const all = [];
      let cursor;
      do {
        const from = cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
        const page = await operate("GET", `/blocked?limit=${PAGE}${from}`);
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

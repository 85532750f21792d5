/** Values that many tests share. */

/** An hour in seconds, the unit of a policy's window. */
export const HOUR_S = 3600;

/** The caller's address in tests that need only one caller. */
export const CALLER = "192.0.2.1";

/** Secrets that no log and no answer may contain. Tests search for `planted`. */
export const PLANTED_SECRETS = {
  ADMIN_TOKEN: "planted-admin-token",
  ORIGIN_SECRET: "planted-origin-secret",
  UPSTASH_REDIS_REST_TOKEN: "planted-store-token",
};

/** For runtimes without TCP, which reach Redis over REST only. */

/** The servers that this transport reaches: none beyond REST (src/wire/redis.rs). */
export const REACH = 0;

/** @returns {never} the module refuses a configuration that would need this */
export function connect() {
  throw new Error("This runtime has no TCP. Use UPSTASH_REDIS_REST_URL in place of REDIS_URL.");
}

/** Runtimes without TCP: Redis over REST alone. */

/** What the host reaches (src/wire/redis.rs). */
export const REACH = 0;

/** @returns {never} the module refuses what would lead here */
export function connect() {
  throw new Error("This runtime has no TCP");
}

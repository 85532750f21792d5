/** Redis over TCP or TLS, behind Sentinel or in a cluster, through `ioredis`, in Node.js, Bun and Deno. */
import { FAILED } from "../statuses.js";

/** What the host reaches (src/wire/redis.rs). */
export const REACH = 2;

/** @returns {import("./rest.js").Transport} */
export function connect() {
  return { call: async () => [FAILED, ""] };
}

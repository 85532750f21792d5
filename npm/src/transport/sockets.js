/** One Redis over TCP or TLS in Cloudflare Workers. */
import { FAILED } from "../statuses.js";

/** What the host reaches (src/wire/redis.rs). */
export const REACH = 1;

/**
 * @param {{nodes: {host: string, port: number}[], username?: string, password?: string, database: number, tls: boolean}} redis
 * @returns {import("./rest.js").Transport}
 */
export function connect() {
  return { call: async () => [FAILED, ""] };
}

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Limiter, LimiterOptions } from "./index.js";

export interface NodeOptions extends LimiterOptions {
  /** An existing limiter to use. No other option may be passed with it: that throws `bad_argument`. */
  limiter?: Limiter;
}

/**
 * Middleware for Express, Connect and Next's API routes. It answers requests that are not admitted and requests to `/_limiter`, and sets the
 * limiter's headers on the responses to all others. The caller's address is the connection's, unless `trustProxy` or `CLIENT_IP_HEADER` is set.
 * Errors are passed to `next`. Middleware does not see WebSocket upgrades: limit those in the server's `upgrade` event (README).
 */
export function rateLimit(options?: NodeOptions): (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void;

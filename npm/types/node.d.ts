import type { IncomingMessage, ServerResponse } from "node:http";
import type { Limiter, LimiterOptions } from "./index.js";

export interface NodeOptions extends LimiterOptions {
  /** A limiter that exists already. Other options next to it are refused. */
  limiter?: Limiter;
}

/**
 * Middleware for Express, Connect and Next's API routes: answers what is not admitted and what goes to `/_limiter`, and sets the
 * limiter's headers on what is. The caller's address is the connection's, unless `trustProxy` or `CLIENT_IP_HEADER` says otherwise.
 * Errors go to `next`. No middleware sees WebSocket upgrades: limit those in the server's `upgrade` event (README).
 */
export function rateLimit(options?: NodeOptions): (request: IncomingMessage, response: ServerResponse, next: (error?: unknown) => void) => void;

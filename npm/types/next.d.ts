import type { NextFetchEvent, NextRequest } from "next/server.js";
import type { Limiter, LimiterOptions } from "./index.js";

export interface NextOptions extends LimiterOptions {
  /** An existing limiter to use. No other option may be passed with it: that throws `bad_argument`. */
  limiter?: Limiter;
}

type Answer = Response | null | undefined | void;

/**
 * The function to export from `proxy.ts` (`export const proxy = rateLimit();`) or `middleware.ts`. An admitted request goes to `handler`, the
 * application's own proxy, or without one to its route. A request that is not admitted is answered.
 */
export function rateLimit(
  options?: NextOptions,
  handler?: (request: NextRequest, event: NextFetchEvent) => Answer | Promise<Answer>,
): (request: NextRequest, event: NextFetchEvent) => Promise<Response>;

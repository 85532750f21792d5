import type { NextFetchEvent, NextRequest } from "next/server.js";
import type { Limiter, LimiterOptions } from "./index.js";

export interface NextOptions extends LimiterOptions {
  /** A limiter that exists already. Other options next to it are refused. */
  limiter?: Limiter;
}

type Answer = Response | null | undefined | void;

/**
 * For `proxy.ts` and `middleware.ts`: `export const proxy = rateLimit();`. What is admitted goes to `handler`, the application's own proxy, if
 * there is one, and on to its route otherwise.
 */
export function rateLimit(
  options?: NextOptions,
  handler?: (request: NextRequest, event: NextFetchEvent) => Answer | Promise<Answer>,
): (request: NextRequest, event: NextFetchEvent) => Promise<Response>;

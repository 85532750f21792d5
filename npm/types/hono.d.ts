import type { Limiter, LimiterOptions } from "./index.js";

export interface HonoOptions extends LimiterOptions {
  /** A limiter that exists already. Other options next to it are refused. */
  limiter?: Limiter;
  /** The address of the connection, where a server knows it: `(c) => getConnInfo(c).remote.address`. */
  address?: (context: any) => string | undefined;
}

/** Middleware for Hono: `app.use(rateLimit())`. */
export function rateLimit(options?: HonoOptions): (context: any, next: () => Promise<void>) => Promise<Response | void>;

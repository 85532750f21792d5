import type { Limiter, LimiterOptions } from "./index.js";

export interface HonoOptions extends LimiterOptions {
  /** An existing limiter to use. No other option of `LimiterOptions` may be passed with it: that throws `bad_argument`. */
  limiter?: Limiter;
  /**
   * Returns the address of the request's connection. Needed on a server of your own, with `getConnInfo` of Hono's adapter:
   * `(c) => getConnInfo(c).remote.address`.
   */
  address?: (context: any) => string | undefined;
}

/**
 * Middleware for Hono: `app.use(rateLimit())`. It answers requests that are denied and requests to `/_limiter`, and adds the limiter's headers to the
 * responses to all others.
 */
export function rateLimit(options?: HonoOptions): (context: any, next: () => Promise<void>) => Promise<Response | void>;

/** What the wrappers for frameworks (Node, Next.js, Hono) have in common. */
import { LimiterError } from "./errors.js";
import { createLimiter } from "./limiter.js";

/** The limiter that is passed as `limiter`, or a new one with the wrapper's options. */
export function limiterOf({ limiter, ...options }) {
  if (limiter === undefined) return createLimiter(options);
  const [other] = Object.keys(options);
  if (other !== undefined) throw new LimiterError("bad_argument", `Pass ${other} to createLimiter: next to limiter it has no effect.`);
  return limiter;
}

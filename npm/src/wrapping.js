/** What the wrappers of frameworks have in common. */
import { LimiterError } from "./errors.js";
import { createLimiter } from "./limiter.js";

/** The limiter that a wrapper is given, or one of its options. */
export function limiterOf({ limiter, ...options }) {
  if (limiter === undefined) return createLimiter(options);
  const [other] = Object.keys(options);
  if (other !== undefined) throw new LimiterError("bad_argument", `Pass ${other} to createLimiter, not next to limiter.`);
  return limiter;
}

/**
 * Drives limiters with constant demand, and measures how much they admit within a window.
 */

import { ask } from "./limited.mjs";

/** Requests in flight at a time. */
const AT_ONCE = 8;

/** Sends requests of one caller to all limiters for `ms`. Returns when each admitted request was sent and answered, by a monotonic clock. */
export async function drive(limiters, agent, ms) {
  const admissions = [];
  const end = performance.now() + ms;
  await Promise.all(Array.from({ length: AT_ONCE }, async (_, i) => {
    for (let sent; (sent = performance.now()) < end; ) {
      if ((await ask(limiters[i % limiters.length], "192.0.2.1", "/", agent)) === 200) admissions.push({ sent, received: performance.now() });
    }
  }));
  return admissions;
}

/** Returns the most admissions whose request and response both lie within one window's length, in ms. */
export function mostInOneWindow(admissions, window) {
  return Math.max(...admissions.map(({ sent }) =>
    admissions.filter((other) => other.sent >= sent && other.received <= sent + window).length));
}

/**
 * Returns by how many units the admissions of some stretch of time exceed a bucket's burst plus what its rate adds meanwhile. A result of
 * at most 0 means that no stretch exceeds it.
 */
export function overflow(admissions, burst, perMs) {
  const ordered = [...admissions].sort((a, b) => a.sent - b.sent);
  let most = -Infinity;
  ordered.forEach((first, i) => {
    const received = ordered.slice(i).map(({ received }) => received).sort((a, b) => a - b);
    received.forEach((end, n) => (most = Math.max(most, n + 1 - burst - (end - first.sent) * perMs)));
  });
  return most;
}

/**
 * What limiters admit under demand at every moment, and how much of it lies in a window.
 */

import { ask } from "./limited.mjs";

/** Requests in flight at a time. */
const AT_ONCE = 8;

/** Demand of one caller from all limiters for so long; when each admission was sent and received, by a clock that only goes forward. */
export async function drive(limiters, agent, ms) {
  const admissions = [];
  const until = performance.now() + ms;
  await Promise.all(Array.from({ length: AT_ONCE }, async (_, i) => {
    for (let sent; (sent = performance.now()) < until; ) {
      if ((await ask(limiters[i % limiters.length], "192.0.2.1", "/", agent)) === 200) admissions.push({ sent, received: performance.now() });
    }
  }));
  return admissions;
}

/** The most admissions that lie, request and response, within one window's length. */
export function densest(admissions, window) {
  return Math.max(...admissions.map(({ sent }) =>
    admissions.filter((other) => other.sent >= sent && other.received <= sent + window).length));
}

/** By how many units any stretch of time holds more than a bucket's burst and what comes back meanwhile; not above 0: by none. */
export function overflow(admissions, burst, perMs) {
  const ordered = [...admissions].sort((a, b) => a.sent - b.sent);
  let most = -Infinity;
  ordered.forEach((first, i) => {
    const received = ordered.slice(i).map(({ received }) => received).sort((a, b) => a - b);
    received.forEach((end, n) => (most = Math.max(most, n + 1 - burst - (end - first.sent) * perMs)));
  });
  return most;
}

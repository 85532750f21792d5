/** Sends oversized requests. Each kind comes from its own address. */

import { raw } from "./raw.mjs";

/** The limiter accepts paths up to 4 KB, and the runtime heads up to 128 KB. */
const PATHS = [4_100, 20_000, 60_000].map((length) => `/${"a".repeat(length)}`);
const HUGE = "a".repeat(140_000);
const MANY = Object.fromEntries(Array.from({ length: 10_000 }, (_, i) => [`X-Filler-${i}`, "filler"]));
const BODY = Buffer.alloc(8_000_000);

let turn = 0;

export async function longPath(context, events) {
  await raw(context, events, { name: "long-path", path: PATHS[turn++ % PATHS.length], headers: { "CF-Connecting-IP": "198.51.100.31" } });
}

export async function hugeHeader(context, events) {
  await raw(context, events, { name: "huge-header", path: "/", headers: { "CF-Connecting-IP": "198.51.100.32", "X-Filler": HUGE }, mayClose: true });
}

export async function manyHeaders(context, events) {
  await raw(context, events, { name: "many-headers", path: "/", headers: { ...MANY, "CF-Connecting-IP": "198.51.100.33" }, mayClose: true });
}

/** Sends a large body to a route with 20 requests a minute. Most are denied before the body has arrived. */
export async function bigBody(context, events) {
  const headers = { "CF-Connecting-IP": "198.51.100.34" };
  await raw(context, events, { name: "big-body", path: "/api/payments/charge", method: "POST", headers, body: BODY, mayClose: true });
}

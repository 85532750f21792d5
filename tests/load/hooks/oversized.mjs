/** Requests larger than anybody needs, each kind from an address of its own. */

import { raw } from "./raw.mjs";

/** The limiter's own bound on paths is 4 KB, the runtime's on a whole head 128 KB. */
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

/** To a route of 20 a minute: most are denied, before the body is there. */
export async function bigBody(context, events) {
  const headers = { "CF-Connecting-IP": "198.51.100.34" };
  await raw(context, events, { name: "big-body", path: "/api/payments/charge", method: "POST", headers, body: BODY, mayClose: true });
}

/** Spellings of one protected path, `/api/payments/charge`, and of other paths under `/api/payments`. */

import { raw } from "./raw.mjs";

const SPELLINGS = [
  "/api/payments/charge",
  // Upper case, and escapes of characters that need none.
  "/API/Payments/CHARGE", "/%61pi/pay%6Dents/charge", "/api/payments/%63%68%61%72%67%65",
  // Empty segments and trailing slashes.
  "//api//payments//charge", "/api/payments/charge/", "/api/payments///charge//",
  // Dot segments, also escaped.
  "/./api/payments/charge", "/api/./payments/charge", "/public/../api/payments/charge", "/x/%2e%2e/api/payments/charge",
  "/api/%2E/payments/charge", "/api/payments/refunds/../charge", "/api/payments/charge/.", "/api/payments/charge/..",
  // Escaped slashes and backslashes.
  "/api%2Fpayments%2Fcharge", "/api/payments%2fcharge", "/api\\payments\\charge", "/api%5Cpayments/charge", "/public/..%2fapi/payments/charge",
  "/api/payments/..%2fpayments/charge",
  // Trailing dots, spaces, zeros and extensions.
  "/api/payments/charge.", "/api/payments/charge...", "/api/payments/charge%2e", "/api/payments/charge%20", "/api/payments/charge%00", "/api/payments/charge.json",
  // Characters that end the path, or look like it.
  "/api/payments/charge?next=/public", "/api/payments/charge%3Fx", "/api/payments/charge;jsessionid=1", "/api/payments/charge#public",
  "/api/payments", "/api/payments/",
];

let turn = 0;

/** Sends the next spelling, always from the same caller. */
export async function spell(context, events) {
  const path = SPELLINGS[turn++ % SPELLINGS.length];
  await raw(context, events, { name: "speller", path, headers: { "CF-Connecting-IP": "198.51.100.20" } });
}

/** Turns Redis's replies into the JSON that Upstash answers. */

import { ReplyError, Status } from "./resp.mjs";

/**
 * Returns `{"result":…}` or `{"error":"…"}` as text. `JSON.stringify` would round integers above 2^53, which Upstash sends with
 * all their digits.
 *
 * @param {boolean} base64 whether the request has `Upstash-Encoding: base64`
 */
export function envelope(reply, base64) {
  if (reply instanceof ReplyError) return errorBody(reply.text);
  // A result that is "OK" alone is not encoded. Inside an array it is encoded like any string, as Upstash's SDK expects.
  if (reply instanceof Status && reply.text === "OK") return '{"result":"OK"}';
  return `{"result":${value(reply, base64)}}`;
}

/** Returns an error as JSON. Errors are never base64. */
export function errorBody(text) {
  return JSON.stringify({ error: text });
}

function value(reply, base64) {
  if (reply === null) return "null";
  if (typeof reply === "bigint") return String(reply);
  if (Array.isArray(reply)) return `[${reply.map((item) => value(item, base64)).join(",")}]`;
  const bytes = Buffer.isBuffer(reply) ? reply : Buffer.from(reply.text);
  // Without base64, bytes that are not UTF-8 become U+FFFD. This is why Upstash offers the encoding.
  return JSON.stringify(bytes.toString(base64 ? "base64" : "utf8"));
}

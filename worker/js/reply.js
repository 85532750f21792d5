/**
 * An answer of the limiter's own, in one crossing from Rust. `headers`: names and values by turns, a line each, since neither
 * can hold a line's end. (workerd takes a record of them for less than it takes a list, or one by one.)
 */
export function reply(status, body, headers) {
  const lines = headers.split("\n");
  const record = {};
  for (let i = 0; i + 1 < lines.length; i += 2) record[lines[i]] = lines[i + 1];
  return new Response(body, { status, headers: record });
}

/** Sends bytes unchanged, for requests that no HTTP client would send. */

import { connect } from "node:net";
import { within } from "./within.mjs";

/**
 * Sends a request and reads until the connection ends.
 *
 * @param {{port: number}} limiter
 * @param {(string | Buffer)[]} lines lines of the head. `Host` is added if it is missing. Strings are sent as Latin-1
 * @param {string | Buffer} [body]
 * @returns {Promise<{status: number, text: string}>} `status` is 0 if the connection was closed without an answer
 */
export async function raw(limiter, lines, body = "") {
  const bytes = (part) => (Buffer.isBuffer(part) ? part : Buffer.from(part, "latin1"));
  const host = lines.some((line) => /^host:/i.test(line)) ? [] : ["Host: limiter"];
  const head = [...lines, ...host, "Connection: close", `Content-Length: ${bytes(body).length}`, ""];
  const socket = connect(limiter.port, "127.0.0.1");
  const chunks = [];
  const ended = new Promise((resolve) => {
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("error", () => {}); // "close" follows
    socket.on("close", resolve);
  });
  for (const line of head) {
    socket.write(bytes(line));
    socket.write("\r\n");
  }
  socket.end(bytes(body));
  try {
    await within(ended, "the end of the connection");
  } finally {
    socket.destroy();
  }
  const text = Buffer.concat(chunks).toString("latin1");
  return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1] ?? 0), text };
}

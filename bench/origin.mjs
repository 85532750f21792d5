/** The origin that contestants forward to: a plain Node HTTP server in its own process, so that its CPU is not the load's. */

import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Failure, ended, main, say, start } from "../scripts/command.mjs";

/** Only the origin answers this: the body shows that a request was forwarded. About as long as a contestant's own answer. */
export const BODY = JSON.stringify({ served: true, message: "Served. This is the origin of a benchmark, behind its contestants.", by: "origin" });

/** @returns {Promise<{url: string, stop: () => Promise<void>}>} */
export async function startOrigin() {
  const child = start(process.execPath, [fileURLToPath(import.meta.url)], { stdio: ["pipe", "pipe", "inherit"] });
  const over = ended(child);
  const url = await Promise.race([
    once(createInterface({ input: child.stdout }), "line").then(([line]) => line),
    over.then((code) => {
      throw new Failure(`the origin ended with exit code ${code} before it was ready`);
    }),
  ]);
  say(`origin on ${url}`);
  return {
    url,
    async stop() {
      child.kill();
      await over;
    },
  };
}

/** Prints its URL, and ends with its standard input: it never outlives the process that started it. */
async function serve() {
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(BODY), "Cache-Control": "no-store" };
  const server = createServer((_, response) => response.writeHead(200, headers).end(BODY));
  // No idle limit: a Worker must not send a request on a connection that is just being closed.
  server.keepAliveTimeout = 0;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  console.log(`http://127.0.0.1:${server.address().port}`);
  process.stdin.resume().once("end", () => process.exit());
}

await main(import.meta.url, serve);

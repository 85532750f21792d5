/** The origin to which contestants forward: a plain Node HTTP server in its own process, so that its CPU is not counted as the load's. */

import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Failure, ended, main, say, start } from "../scripts/command.mjs";

/** Only the origin answers with this body, so it shows that a request was forwarded. It is about as long as a contestant's own answer. */
export const BODY = JSON.stringify({ served: true, message: "Served. This is the origin of a benchmark, behind its contestants.", by: "origin" });

/** @returns {Promise<{url: string, stop: () => Promise<void>}>} */
export async function startOrigin() {
  const child = start(process.execPath, [fileURLToPath(import.meta.url)], { stdio: ["pipe", "pipe", "inherit"] });
  const end = ended(child);
  const url = await Promise.race([
    once(createInterface({ input: child.stdout }), "line").then(([line]) => line),
    end.then((code) => {
      throw new Failure(`the origin ended with exit code ${code} before it was ready; its output above says why`);
    }),
  ]);
  say(`origin on ${url}`);
  return {
    url,
    async stop() {
      child.kill();
      await end;
    },
  };
}

/** Serves, and prints the URL. Ends when standard input ends, so that it never outlives the process that started it. */
async function serve() {
  const headers = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(BODY), "Cache-Control": "no-store" };
  const server = createServer((_, response) => response.writeHead(200, headers).end(BODY));
  // No idle timeout, so that no Worker sends a request on a connection that is being closed.
  server.keepAliveTimeout = 0;
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  console.log(`http://127.0.0.1:${server.address().port}`);
  process.stdin.resume().once("end", () => process.exit());
}

await main(import.meta.url, serve);

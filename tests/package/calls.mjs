/**
 * A program that calls functions of a module: `node calls.mjs MODULE`, then messages `{ id, call, args }`. It turns an argument
 * `{ request }` into a `Request`, and sends a `Response` back as status, headers and body.
 */

import { pathToFileURL } from "node:url";

// Vercel provides this context, because a function there ends with its request.
if (process.env.VERCEL) globalThis[Symbol.for("@vercel/request-context")] = { get: () => ({ waitUntil: (promise) => void promise }) };

const module = await import(pathToFileURL(process.argv[2]));

process.on("message", async ({ id, call, args }) => {
  if (call === undefined) return;
  try {
    const callArgs = args.map((arg) => (arg?.request ? new Request(arg.request.url, arg.request) : arg));
    const result = await module[call](...callArgs);
    process.send({ id, result: result instanceof Response ? { status: result.status, headers: Object.fromEntries(result.headers), body: await result.text() } : result });
  } catch (error) {
    process.send({ id, error: `${error.name}: ${error.message}` });
  }
});
process.send({ ready: true });

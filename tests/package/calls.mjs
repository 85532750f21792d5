/** A program that calls what a module exports: `node calls.mjs MODULE`, then messages `{ call, args }`. A `request` becomes one, a response is taken apart. */

import { pathToFileURL } from "node:url";

// As Vercel does, whose functions end their work with the request.
if (process.env.VERCEL) globalThis[Symbol.for("@vercel/request-context")] = { get: () => ({ waitUntil: (promise) => void promise }) };

const module = await import(pathToFileURL(process.argv[2]));

process.on("message", async ({ id, call, args }) => {
  if (call === undefined) return;
  try {
    const given = args.map((arg) => (arg?.request ? new Request(arg.request.url, arg.request) : arg));
    const result = await module[call](...given);
    process.send({ id, result: result instanceof Response ? { status: result.status, headers: Object.fromEntries(result.headers), body: await result.text() } : result });
  } catch (error) {
    process.send({ id, error: `${error.name}: ${error.message}` });
  }
});
process.send({ ready: true });

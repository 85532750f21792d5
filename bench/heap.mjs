/** Measures the live JavaScript heap of an isolate by V8's inspector. */

import WebSocket from "ws";
import { once } from "node:events";
import { within } from "../tests/harness/within.mjs";

/**
 * The number of bytes in use after a garbage collection.
 *
 * @param {object} server a server started with `inspected`
 * @param {() => Promise<unknown>} ask sends a request to the server, because the collection only happens when the isolate runs next
 */
export async function heapOf(server, ask) {
  const socket = new WebSocket(server.inspector);
  await once(socket, "open");
  const answers = new Map();
  socket.on("message", (message) => {
    const { id, result, error } = JSON.parse(message);
    answers.get(id)?.(result ?? Promise.reject(new Error(`the inspector: ${error.message}`)));
  });
  const call = (method) => new Promise((resolve) => {
    const id = answers.size + 1;
    answers.set(id, resolve);
    socket.send(JSON.stringify({ id, method }));
  });
  try {
    await within(call("HeapProfiler.enable"), "the inspector");
    let done = false;
    const collected = call("HeapProfiler.collectGarbage").then(() => (done = true));
    await within((async () => {
      while (!done) await ask();
      await collected;
    })(), "a garbage collection");
    const { usedSize } = await within(call("Runtime.getHeapUsage"), "the size of the heap");
    return usedSize;
  } finally {
    socket.close();
    await once(socket, "close");
  }
}

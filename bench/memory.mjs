/** What an isolate keeps of callers that it has seen once. */

import { say } from "../scripts/command.mjs";
import { INSIDE, memoryOf } from "../tests/harness/inside.mjs";
import { startWorkerd } from "../tests/harness/workerd.mjs";
import { heapOf } from "./heap.mjs";
import { load, messages } from "./load.mjs";
import { residentOf } from "./process.mjs";

/** Of which contestants: those that are to be compared, and one that keeps nothing of a caller, to show what is noise. */
const OF = ["js", "upstash-ratelimit", "hono-rate-limiter", "memory", "one-quota"];

/** Requests before the first look, so that what is made once has been made. */
const BEFORE = 2000;

const CONNECTIONS = 32;

const ONE = "192.0.2.1";

/**
 * @returns {Promise<Record<string, {heap: number, linear: number, resident: number}>>} by name, by how many bytes there grew
 *   what is alive of JavaScript (`heap`), WebAssembly's memory (`linear`), and the process with all its garbage (`resident`)
 */
export async function memory(runners, callers) {
  const grown = {};
  for (const { contestant, options } of runners.filter(({ contestant }) => OF.includes(contestant.name))) {
    say(`memory of ${callers} callers: ${contestant.title}`);
    const limiter = contestant.worker === "edge-limiter";
    const server = await startWorkerd({ ...options, inspected: true, ...(limiter && { modules: INSIDE }) });
    try {
      const ask = (addresses, requests) =>
        load({ port: server.port, connections: CONNECTIONS, expected: contestant.expected, messages: messages(addresses), requests });
      const look = async () => ({
        resident: residentOf(server.pid),
        linear: limiter ? await memoryOf(server) : 0,
        heap: await heapOf(server, () => ask([ONE], 1)),
      });
      await ask([ONE], BEFORE);
      const before = await look();
      await ask(addresses(callers), callers);
      const after = await look();
      grown[contestant.name] = Object.fromEntries(Object.keys(after).map((kind) => [kind, after[kind] - before[kind]]));
    } finally {
      await server.stop();
    }
  }
  return grown;
}

function addresses(count) {
  return Array.from({ length: count }, (_, number) => [11, number >> 16, (number >> 8) & 255, number & 255].join("."));
}

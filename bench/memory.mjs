/** Measures how much memory an isolate keeps for callers that it has seen once. */

import { say } from "../scripts/command.mjs";
import { INSIDE, memoryOf } from "../tests/harness/inside.mjs";
import { startWorkerd } from "../tests/harness/workerd.mjs";
import { heapOf } from "./heap.mjs";
import { load, messages } from "./load.mjs";
import { residentOf } from "./process.mjs";

/** The contestants that are compared. `js` keeps nothing of a caller, which shows how much is noise. */
const COMPARED = ["js", "upstash-ratelimit", "hono-rate-limiter", "memory", "one-quota"];

/** Requests before the first measurement, so that everything that is made only once exists. */
const WARM_UP_REQUESTS = 2000;

const CONNECTIONS = 32;

const ONE_ADDRESS = "192.0.2.1";

/**
 * @returns {Promise<Record<string, {heap: number, linear: number, resident: number}>>} for each contestant, by how many bytes
 *   its live JavaScript heap (`heap`), WebAssembly's memory (`linear`) and the process with its garbage (`resident`) grew
 */
export async function memory(runners, callers) {
  const grown = {};
  for (const { contestant, options } of runners.filter(({ contestant }) => COMPARED.includes(contestant.name))) {
    say(`measuring the memory for ${callers} callers: ${contestant.title}`);
    const limiter = contestant.worker === "edge-limiter";
    const server = await startWorkerd({ ...options, inspected: true, ...(limiter && { modules: INSIDE }) });
    try {
      const ask = (addresses, requests) =>
        load({ port: server.port, connections: CONNECTIONS, expected: contestant.expected, messages: messages(addresses), requests });
      const measure = async () => ({
        resident: residentOf(server.pid),
        linear: limiter ? await memoryOf(server) : 0,
        heap: await heapOf(server, () => ask([ONE_ADDRESS], 1)),
      });
      await ask([ONE_ADDRESS], WARM_UP_REQUESTS);
      const before = await measure();
      await ask(addresses(callers), callers);
      const after = await measure();
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

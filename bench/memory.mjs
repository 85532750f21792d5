/** What an isolate keeps of callers that it has seen once. */

import { say } from "../scripts/command.mjs";
import { INSIDE, memoryOf } from "../tests/harness/inside.mjs";
import { startWorkerd } from "../tests/harness/workerd.mjs";
import { load, messages } from "./load.mjs";
import { residentOf } from "./process.mjs";

/** Of which contestants: those that are to be compared, and one that keeps nothing of a caller, to show what is noise. */
const OF = ["js", "upstash-ratelimit", "hono-rate-limiter", "memory", "one-quota"];

/** Before the first look, so that what any number of requests makes grow has grown. */
const BEFORE = 10_000;

const CONNECTIONS = 32;

/**
 * @returns {Promise<Record<string, {resident: number, linear?: number}>>} by name, by how many bytes the process (`resident`) and
 *   WebAssembly's memory (`linear`) grew
 */
export async function memory(runners, callers) {
  const grown = {};
  for (const { contestant, options } of runners.filter(({ contestant }) => OF.includes(contestant.name))) {
    say(`memory of ${callers} callers: ${contestant.title}`);
    const limiter = contestant.worker === "edge-limiter";
    const server = await startWorkerd({ ...options, ...(limiter && { modules: INSIDE }) });
    try {
      const sent = { port: server.port, connections: CONNECTIONS, expected: contestant.expected };
      const look = async () => ({ resident: residentOf(server.pid), ...(limiter && { linear: await memoryOf(server) }) });
      await load({ ...sent, messages: messages(["192.0.2.1"]), requests: Math.min(BEFORE, callers) });
      const before = await look();
      await load({ ...sent, messages: messages(addresses(callers)), requests: callers });
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

/**
 * Measures what an isolate needs until its first answer. It is measured on workerd, because Node compiles all functions of a module at
 * once. (Node 20 cannot compile this module at all: it uses a type that is too new.)
 */

import { say } from "../scripts/command.mjs";
import { send } from "../tests/harness/request.mjs";
import { startWorkerd } from "../tests/harness/workerd.mjs";
import { assertWorkerd, cpuOf } from "./process.mjs";
import { shuffled } from "./statistics.mjs";

const CALLER = "192.0.2.1";

/**
 * Starts each contestant a number of times, in random order.
 *
 * @returns {Promise<Record<string, {wall: number[], cpu: number[]}>>} for each start, the ms from before the start of workerd to the
 *   first answer, as time and as CPU
 */
export async function starts(runners, times) {
  const samples = Object.fromEntries(runners.map(({ contestant }) => [contestant.name, { wall: [], cpu: [] }]));
  say(`starting each ${times} times`);
  for (let start = 0; start < times; start++) {
    for (const { contestant, options } of shuffled(runners)) {
      const began = performance.now();
      const server = await startWorkerd(options);
      try {
        const { status } = await send(server.url, { headers: { "CF-Connecting-IP": CALLER } });
        const wall = performance.now() - began;
        assertWorkerd(server.pid);
        if (status >= 500) throw new Error(`${contestant.title}: the first answer is a ${status}\n${server.logs()}`);
        samples[contestant.name].wall.push(wall);
        samples[contestant.name].cpu.push(cpuOf(server.pid) / 1000);
      } finally {
        await server.stop();
      }
    }
  }
  return samples;
}

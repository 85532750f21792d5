/**
 * What an isolate needs before its first answer. Measured on workerd: what Node needs for the same module says nothing of
 * that, since it compiles all functions at once (and Node 20 not this module, which uses a type that is too new for it).
 */

import { say } from "../scripts/command.mjs";
import { send } from "../tests/harness/request.mjs";
import { startWorkerd } from "../tests/harness/workerd.mjs";
import { assertWorkerd, cpuOf } from "./process.mjs";
import { shuffled } from "./statistics.mjs";

const CALLER = "192.0.2.1";

/**
 * Starts each so many times, in an order of chance.
 *
 * @returns {Promise<Record<string, {wall: number[], cpu: number[]}>>} milliseconds from before the start of workerd to the
 *   first answer, a start each
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

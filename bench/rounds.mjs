/**
 * Measures in rounds. In each round every contestant gets the same number of requests, in random order. Other work of the machine
 * thus affects all contestants alike, and contestants are compared within a round.
 */

import { setTimeout as delay } from "node:timers/promises";
import { Failure, say } from "../scripts/command.mjs";
import { load, messages } from "./load.mjs";
import { cpuOf } from "./process.mjs";
import { shuffled } from "./statistics.mjs";

/** Each measured stretch is preceded by its number of requests divided by this, so that caches are warm and connections open. */
const WARM_UP_DIVISOR = 10;

/** The warm-up has this many times a round's requests. After it V8 has compiled all that it compiles of a busy isolate. */
export const WARM_UP_ROUNDS = 5;

/** For how long a Worker still works after its last answer, unless its contestant says otherwise. */
const AFTERWARDS_MS = 20;

/**
 * @param {{contestant: import("./contestants.mjs").Contestant, server: object}[]} runners
 * @param {object} standIn
 * @param {{rounds: number, requests: number, connections: number}} options
 * @returns {Promise<Record<string, object[]>>} for each contestant's name one sample per round
 */
export async function rounds(runners, standIn, { rounds, requests, connections }) {
  const samples = Object.fromEntries(runners.map(({ contestant }) => [contestant.name, []]));
  say(`warming up: ${WARM_UP_ROUNDS * requests} requests each`);
  for (const runner of runners) {
    // The warm-up has its own round numbers, because a caller that is denied in one round has to be new in the next.
    for (let turn = 1; turn <= WARM_UP_ROUNDS; turn++) await stretch(runner, standIn, { round: rounds + turn, requests, connections });
  }
  for (let round = 1; round <= rounds; round++) {
    say(`round ${round} of ${rounds}`);
    for (const runner of shuffled(runners)) {
      samples[runner.contestant.name].push(await stretch(runner, standIn, { round, requests, connections }));
    }
  }
  return samples;
}

async function stretch({ contestant, server }, standIn, { round, requests, connections }) {
  const { name, callers, expected, costs, prepare, afterwards = AFTERWARDS_MS } = contestant;
  const addresses = callers(round);
  const sent = { port: server.port, messages: messages(addresses), connections, expected };
  let before, cpu;
  try {
    await prepare(server, addresses[0]);
    await load({ ...sent, requests: Math.ceil(requests / WARM_UP_DIVISOR) });
    // Waits until the work that the warm-up leaves is done, so that it is not measured.
    await delay(afterwards);
    before = await standIn.counts();
    const { seconds, ...latencies } = await load({ ...sent, requests, begin: () => (cpu = cpuOf(server.pid)) });
    await delay(afterwards);
    cpu = cpuOf(server.pid) - cpu;
    const after = await standIn.counts();
    const roundTrips = (after.requests - before.requests) / requests;
    const billed = (after.billed - before.billed) / requests;
    check(costs, { roundTrips, billed }, { seconds: seconds + (2 * afterwards) / 1000, requests });
    return { cpu: cpu / requests, ...latencies, rate: requests / seconds, roundTrips, billed };
  } catch (error) {
    throw new Failure(`${name}: ${error.message}`);
  }
}

/** Throws if a decision took other calls or commands than expected. The row would then measure something else. */
function check(costs, measured, stretch) {
  for (const [name, isExpected] of Object.entries(costs)) {
    if (!isExpected(measured[name], stretch)) throw new Error(`a decision took ${measured[name]} ${name}, which is not what this row costs`);
  }
}

/** How much CPU the busiest Worker uses without requests, in µs per second. */
export async function idle(runners) {
  const before = runners.map(({ server }) => cpuOf(server.pid));
  const started = performance.now();
  await delay(1000);
  const seconds = (performance.now() - started) / 1000;
  return Math.max(...runners.map(({ server }, place) => (cpuOf(server.pid) - before[place]) / seconds));
}

/**
 * Rounds: in each, every contestant gets the same number of requests, in an order of chance. Whatever else the machine
 * does falls on all of them alike, and what is compared is compared within a round.
 */

import { setTimeout as delay } from "node:timers/promises";
import { Failure, say } from "../scripts/command.mjs";
import { load, messages } from "./load.mjs";
import { cpuOf } from "./process.mjs";
import { shuffled } from "./statistics.mjs";

/** Before a stretch that is measured, so that caches are warm and connections open, as many requests by this. */
const WARM_UP = 10;

/** Before the first round, so many times a round's requests: by then V8 has compiled what it compiles of a busy isolate. */
export const WARM_UP_ROUNDS = 5;

/** What a Worker still has to do when it has answered, unless its contestant says how long. */
const AFTERWARDS_MS = 20;

/**
 * @param {{contestant: import("./contestants.mjs").Contestant, server: object}[]} runners
 * @param {object} standIn
 * @param {{rounds: number, requests: number, connections: number}} options
 * @returns {Promise<Record<string, object[]>>} by the contestant's name a sample a round
 */
export async function rounds(runners, standIn, { rounds, requests, connections }) {
  const samples = Object.fromEntries(runners.map(({ contestant }) => [contestant.name, []]));
  say(`warming up: ${WARM_UP_ROUNDS * requests} requests each`);
  for (const runner of runners) {
    // Rounds of their own: a caller that is denied in one has to be new in the next.
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
    await load({ ...sent, requests: Math.ceil(requests / WARM_UP) });
    // What the warm-up leaves to be done is no part of it.
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

/** A row that costs something else measures something else. */
function check(costs, measured, stretch) {
  for (const [name, wanted] of Object.entries(costs)) {
    if (!wanted(measured[name], stretch)) throw new Error(`${name} per decision: ${measured[name]}`);
  }
}

/** Microseconds of CPU a second that Workers use when nobody asks them. */
export async function idle(runners) {
  const before = runners.map(({ server }) => cpuOf(server.pid));
  const started = performance.now();
  await delay(1000);
  const seconds = (performance.now() - started) / 1000;
  return Math.max(...runners.map(({ server }, place) => (cpuOf(server.pid) - before[place]) / seconds));
}

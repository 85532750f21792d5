/** Compares the package in Node, counting in memory, with two popular limiters: as Express middleware, and the bare decision. */

import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import path from "node:path";
import { Failure, root, say } from "../scripts/command.mjs";
import { makePackage } from "../scripts/package.mjs";
import { setup } from "../scripts/setup.mjs";
import { project } from "../tests/package/scratch.mjs";
import { load } from "./load.mjs";
import { cpuOf } from "./process.mjs";
import { number, table } from "./report.mjs";
import { shuffled, spread } from "./statistics.mjs";

const BARE = "bare";
const OURS = "edge-limiter";
const PEERS = ["express-rate-limit", "rate-limiter-flexible"];

/** Callers that take turns. */
const CALLERS = 1000;

/** So long that no window ends while the bench runs. */
const WINDOW_S = 3600;

/** A limit that no caller reaches, and a limit that each caller has used up after one request. */
const AMPLE_LIMIT = 1_000_000;
const LIMIT_OF_ONE = 1;

/** A bare decision is much faster than a request, so this many times more of them are measured. */
const DECISIONS_PER_REQUEST = 50;

/** The warm-up has this many times a round's requests. */
const WARM_UP_ROUNDS = 5;

/** The two measurements: each caller's limit, the contestants, and the expected answer. */
const ADMITTED = { limit: AMPLE_LIMIT, contestants: [BARE, ...PEERS, OURS], expected: { status: 200, has: ['{"admitted":true}'] } };
const DENIED = { limit: LIMIT_OF_ONE, contestants: [...PEERS, OURS], expected: { status: 429 } };

/** One request for each caller, as a proxy would send it, as bytes. */
const MESSAGES = Array.from({ length: CALLERS }, (_, caller) =>
  Buffer.from(`GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.${caller >> 8}.${caller & 255}\r\n\r\n`));

/**
 * @param {{rounds: number, requests: number, connections: number, figures: object}} options
 * @returns {Promise<string>} a section of Markdown
 */
export async function node({ rounds, requests, connections, figures }) {
  await setup({ package: true });
  await makePackage();
  let remove;
  const files = { "program.mjs": readFileSync(path.join(root, "bench", "node", "program.mjs"), "utf8") };
  const folder = await project({ after: (cleanup) => (remove = cleanup) }, files, ["express", ...PEERS]);
  const program = path.join(folder, "program.mjs");
  try {
    const admitted = await servers(program, ADMITTED, { rounds, requests, connections });
    const denied = await servers(program, DENIED, { rounds, requests, connections });
    const decided = await decisions(program, { rounds, count: DECISIONS_PER_REQUEST * requests });
    figures.node = { admitted, denied, decided };
    return section({ admitted, denied, decided, rounds, requests, connections });
  } finally {
    remove();
  }
}

/** Starts all contestants, runs `body` and then ends them. */
async function withPrograms(program, names, what, limit, body) {
  const children = new Map();
  try {
    for (const name of names) {
      const child = fork(program, [name, what, limit, WINDOW_S, CALLERS].map(String), { cwd: path.dirname(program), env: { PATH: process.env.PATH } });
      children.set(name, child);
      child.ready = await message(child, name);
    }
    return await body(children);
  } finally {
    for (const child of children.values()) child.kill("SIGKILL");
  }
}

async function message(child, name) {
  const waiting = new AbortController();
  const { signal } = waiting;
  const ended = once(child, "exit", { signal }).then(([code]) => Promise.reject(new Failure(`${name} ended with exit code ${code} before it answered`)));
  // Rejects when it is aborted after a message has come.
  ended.catch(() => {});
  try {
    const [received] = await Promise.race([once(child, "message", { signal }), ended]);
    return received;
  } finally {
    waiting.abort();
  }
}

/** For each contestant one sample per round: the process's CPU per request in µs, latencies in ms, requests per second. */
async function servers(program, { limit, contestants, expected }, { rounds, requests, connections }) {
  return withPrograms(program, contestants, "server", limit, async (children) => {
    const samples = Object.fromEntries(contestants.map((name) => [name, []]));
    const stretch = async (name, sent = {}) => {
      const child = children.get(name);
      let cpu;
      const begin = () => (cpu = cpuOf(child.pid));
      const { seconds, ...latencies } = await load({ port: child.ready.port, messages: MESSAGES, requests, connections, expected, begin, ...sent });
      return { cpu: (cpuOf(child.pid) - cpu) / requests, ...latencies, rate: requests / seconds };
    };
    say(`Express, ${limit === LIMIT_OF_ONE ? "denied" : "admitted"}: warming up, ${WARM_UP_ROUNDS * requests} requests each`);
    for (const name of contestants) {
      // Each caller's first request is admitted and uses up its limit.
      if (limit === LIMIT_OF_ONE) await stretch(name, { requests: CALLERS, expected: ADMITTED.expected });
      for (let turn = 0; turn < WARM_UP_ROUNDS; turn++) await stretch(name);
    }
    for (let round = 1; round <= rounds; round++) {
      say(`round ${round} of ${rounds}`);
      for (const name of shuffled(contestants)) samples[name].push(await stretch(name));
    }
    return samples;
  });
}

/** For each contestant one sample per round: CPU per decision in µs, decisions per second. */
async function decisions(program, { rounds, count }) {
  const contestants = [...PEERS, OURS];
  return withPrograms(program, contestants, "decisions", AMPLE_LIMIT, async (children) => {
    const samples = Object.fromEntries(contestants.map((name) => [name, []]));
    const stretch = async (name) => {
      children.get(name).send({ count });
      const { allowed, seconds, cpu } = await message(children.get(name), name);
      if (allowed !== count) throw new Failure(`${name} admitted ${allowed} of ${count} decisions, but has to admit all`);
      return { cpu: cpu / count, rate: count / seconds };
    };
    say(`bare decisions: warming up, ${count} each`);
    for (const name of contestants) await stretch(name);
    for (let round = 1; round <= rounds; round++) {
      say(`round ${round} of ${rounds}`);
      for (const name of shuffled(contestants)) samples[name].push(await stretch(name));
    }
    return samples;
  });
}

const withRange = ({ median, low, high }) => `${number(median)} (${number(low)}–${number(high)})`;
const of = (samples, name, figure) => spread(samples[name].map((sample) => sample[figure]));

/** Compares one contestant's CPU with another's, round by round. */
const compared = (samples, name, other, how) => spread(samples[name].map(({ cpu }, round) => how(cpu, samples[other][round].cpu)));
const ratio = (samples, name, other) => compared(samples, name, other, (one, two) => one / two);
const beyond = (samples, name, other) => compared(samples, name, other, (one, two) => one - two);

const TITLES = { [BARE]: "Express without a limiter" };
const HEAD = ["CPU, µs", ...PEERS.map((name) => `of ${name}`)];

function rows(samples, further) {
  return Object.keys(samples).map((name) => [
    TITLES[name] ?? name,
    withRange(of(samples, name, "cpu")),
    ...PEERS.map((peer) => (peer === name ? "1" : withRange(ratio(samples, name, peer)))),
    ...further(name),
  ]);
}

const latencies = (samples) => (name) => ["p50", "p99", "rate"].map((figure) => number(of(samples, name, figure).median));

function section({ admitted, denied, decided, rounds, requests, connections }) {
  const versions = ["express", ...PEERS].map((name) => `${name} ${installed(name)}`).join(", ");
  return [
    "## In Node",
    "",
    `The package in Node ${process.versions.node}, counting in memory, next to ${versions}. Each runs in its own process. In each of ${rounds} rounds every`,
    `row gets ${requests} requests over ${connections} connections, in random order, after a warm-up of ${WARM_UP_ROUNDS * requests}. ${CALLERS} addresses take turns, in`,
    "`X-Forwarded-For` behind one trusted proxy. CPU is that of the process per request, medians with quartiles; ratios are taken within a round.",
    "",
    "### As Express middleware, admitted",
    "",
    table(["", ...HEAD, "beyond Express, µs", "p50, ms", "p99, ms", "requests/s"], rows(admitted, (name) => [
      name === BARE ? "–" : withRange(beyond(admitted, name, BARE)),
      ...latencies(admitted)(name),
    ])),
    "",
    "### As Express middleware, denied",
    "",
    table(["", ...HEAD, "p50, ms", "p99, ms", "requests/s"], rows(denied, latencies(denied))),
    "",
    "### The bare decision",
    "",
    "Calls of `check` and `consume`, one at a time. express-rate-limit has no such call, so its store's `increment` is measured.",
    "",
    table(["", ...HEAD, "decisions/s"], rows(decided, (name) => [number(of(decided, name, "rate").median)])),
    "",
    conclusion({ "a request that is admitted": admitted, "a request that is denied": denied, "a bare decision": decided }),
  ].join("\n");
}

/** Compares with the target, which is less CPU than either peer. */
function conclusion(measured) {
  const lines = Object.entries(measured).map(([what, samples]) => {
    const ratios = PEERS.map((peer) => ({ peer, ...ratio(samples, OURS, peer) }));
    const behind = ratios.filter(({ median }) => median > 1);
    if (behind.length === 0) return `- ${what}: ahead of both`;
    return `- ${what}: ${behind.map(({ peer, median }) => `${number(median)} times the CPU of ${peer}`).join(", ")}`;
  });
  return ["The target is less CPU than either:", "", ...lines].join("\n");
}

function installed(name) {
  return JSON.parse(readFileSync(path.join(root, "tests", "package", "package-lock.json"), "utf8")).packages[`node_modules/${name}`].version;
}

/** Compares the package in Node with rate-limiter-flexible, both over ioredis on one Redis. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import path from "node:path";
import { Failure, root, say } from "../scripts/command.mjs";
import { makePackage } from "../scripts/package.mjs";
import { setup } from "../scripts/setup.mjs";
import { project } from "../tests/package/scratch.mjs";
import { startRedis } from "../tests/upstash/redis-server.mjs";
import { cpuOf } from "./process.mjs";
import { number, table } from "./report.mjs";
import { shuffled, spread } from "./statistics.mjs";

const PEER = "rate-limiter-flexible";
const CONTESTANTS = [PEER, "edge-limiter", "edge-limiter, fixed window", "edge-limiter by the application's client"];

/** Callers that take turns. None reaches the limit while the bench runs. */
const CALLERS = 1000;
const LIMIT = 1_000_000;
const WINDOW_S = 3600;

/** The warm-up has this many times a round's decisions. */
const WARM_UP_ROUNDS = 3;

/**
 * @param {{rounds: number, requests: number, connections: number, figures: object}} options
 * @returns {Promise<string>} a section of Markdown
 */
export async function redis(options) {
  await setup({ package: true });
  await makePackage();
  return measure(options);
}

export async function measure({ rounds, requests, connections, figures }) {
  let remove;
  const files = { "redis.mjs": readFileSync(path.join(root, "bench", "node", "redis.mjs"), "utf8") };
  const folder = await project({ after: (cleanup) => (remove = cleanup) }, files, ["ioredis", PEER]);
  const server = await startRedis();
  const children = new Map();
  try {
    const commands = await server.client();
    for (const name of CONTESTANTS) {
      const child = fork(path.join(folder, "redis.mjs"), [name, server.port, LIMIT, WINDOW_S, CALLERS].map(String), { cwd: folder, env: { PATH: process.env.PATH } });
      children.set(name, child);
      await message(child, name);
    }
    const stretch = async (name, count = requests) => {
      const [sent, ran, busy] = [await scriptCalls(commands), await commandsRun(commands), cpuOf(server.pid)];
      children.get(name).send({ count, lanes: connections });
      const { allowed, seconds, cpu, p50, p99 } = await message(children.get(name), name);
      if (allowed !== count) throw new Failure(`${name} admitted ${allowed} of ${count} decisions, but has to admit all`);
      const onServer = cpuOf(server.pid) - busy;
      return {
        cpu: cpu / count, redis: onServer / count, p50, p99, rate: count / seconds, sent: (await scriptCalls(commands) - sent) / count, ran: (await commandsRun(commands) - ran - 2) / count,
      };
    };
    say(`warming up, ${WARM_UP_ROUNDS * requests} decisions each`);
    for (const name of CONTESTANTS) await stretch(name, WARM_UP_ROUNDS * requests);
    const samples = Object.fromEntries(CONTESTANTS.map((name) => [name, []]));
    for (let round = 1; round <= rounds; round += 1) {
      say(`round ${round} of ${rounds}`);
      for (const name of shuffled(CONTESTANTS)) samples[name].push(await stretch(name));
    }
    figures.redis = samples;
    return section(samples, { rounds, requests, connections });
  } finally {
    for (const child of children.values()) child.kill("SIGKILL");
    await server.stop();
    remove();
  }
}

async function message(child, name) {
  const [received] = await Promise.race([once(child, "message"), once(child, "exit").then(([code]) => Promise.reject(new Failure(`${name} ended with exit code ${code} before it answered`)))]);
  return received;
}

/** How many scripts clients have called so far. */
async function scriptCalls(client) {
  const text = await client.sendCommand(["INFO", "commandstats"]);
  return ["evalsha", "eval"].reduce((sum, name) => sum + Number(new RegExp(`^cmdstat_${name}:calls=(\\d+)`, "m").exec(text)?.[1] ?? 0), 0);
}

/** How many commands have run so far, including those inside scripts. */
async function commandsRun(client) {
  const text = await client.sendCommand(["INFO", "commandstats"]);
  return [...text.matchAll(/^cmdstat_[^:]+:calls=(\d+)/gm)].reduce((sum, [, calls]) => sum + Number(calls), 0);
}

function section(samples, { rounds, requests, connections }) {
  const of = (name, figure) => {
    const { median, low, high } = spread(samples[name].map((sample) => sample[figure]));
    return `${number(median)} (${number(low)}–${number(high)})`;
  };
  const median = (name, figure) => number(spread(samples[name].map((sample) => sample[figure])).median);
  const ratio = (name) => {
    const { median: middle, low, high } = spread(samples[name].map(({ cpu }, round) => cpu / samples[PEER][round].cpu));
    return name === PEER ? "1" : `${number(middle)} (${number(low)}–${number(high)})`;
  };
  return [
    "## In Node, over Redis",
    "",
    `The package in Node ${process.versions.node} by \`REDIS_URL\`, next to ${PEER} ${installed(PEER)}, both over ioredis ${installed("ioredis")} and one connection to one Redis on this`,
    `machine. Each runs in its own process. In each of ${rounds} rounds every row makes ${requests} decisions, ${connections} at a time, in random order; ${CALLERS} callers take`,
    `turns. CPU is that of the process per decision, medians with quartiles; ratios are taken within a round. ${PEER} counts a fixed window; edge-limiter a sliding`,
    "one by default.",
    "",
    table(
      ["", "CPU, µs", `of ${PEER}`, "p50, ms", "p99, ms", "decisions/s", "calls", "commands, with those in scripts", "Redis's CPU, µs"],
      CONTESTANTS.map((name) => [
        name, of(name, "cpu"), ratio(name), median(name, "p50"), median(name, "p99"), median(name, "rate"), median(name, "sent"), median(name, "ran"), of(name, "redis"),
      ]),
    ),
  ].join("\n");
}

function installed(name) {
  return JSON.parse(readFileSync(path.join(root, "tests", "package", "package-lock.json"), "utf8")).packages[`node_modules/${name}`].version;
}

/** edge-limiter, other limiters and minimal Workers, answering and forwarding: one run, one machine, one Redis, one origin. */

import { readFileSync } from "node:fs";
import path from "node:path";
import { Failure, root, say } from "../scripts/command.mjs";
import { startWorkerd } from "../tests/harness/workerd.mjs";
import { contestants, health } from "./contestants.mjs";
import { memory } from "./memory.mjs";
import { startOrigin } from "./origin.mjs";
import { assertWorkerd } from "./process.mjs";
import { programs, sizeOf } from "./programs.mjs";
import { memoryTable, number, requestsTable, shortTable, sizesTable, targetsTable } from "./report.mjs";
import { WARM_UP_ROUNDS, idle, rounds } from "./rounds.mjs";
import { starts } from "./startup.mjs";
import { spread } from "./statistics.mjs";
import { targets } from "./targets.mjs";
import { startStandIn } from "./upstash.mjs";

/** What an idle Worker may use of a second, in microseconds: more, and it would be counted as some request's. */
const IDLE = 5000;
/** Seconds after which they are to be at rest. */
const AT_REST = 10;

/** The bare Worker that start-ups are compared with. */
const BARE = "js";

/**
 * @param {object} options see scripts/bench.mjs
 * @returns {Promise<string>} Markdown
 */
export async function peers(options) {
  const { only, requests } = options;
  const all = contestants(options);
  const unknown = only?.find((name) => !all.some((row) => row.name === name));
  if (unknown) throw new Failure(`--only: there is no ${unknown}; there are ${all.map(({ name }) => name).join(", ")}`, 2);
  const wanted = all.filter(({ name }) => !only || only.includes(name));
  const folders = await programs(wanted.map(({ worker }) => worker));
  const standIn = await startStandIn();
  const running = [];
  let origin;
  try {
    origin = await startOrigin();
    const { runners, skipped } = await start(wanted, folders, { standIn, origin }, running);
    const rows = runners.map(({ contestant }) => contestant);
    await standIn.delay(options.redisDelayMs);
    const samples = await rounds(runners, standIn, options);
    await standIn.delay(0);
    // What the last requests leave to do, compiling and collecting garbage, is not what a Worker does at rest.
    let resting = Infinity;
    for (let second = 0; second < AT_REST && resting > IDLE; second++) resting = await idle(runners);
    if (resting > IDLE) throw new Failure(`an idle Worker uses ${number(resting)} µs of CPU a second: requests cannot be told from that`);
    await Promise.all(running.splice(0).map((server) => server.stop()));

    // To forward is to have been started like the others.
    const answering = runners.filter(({ contestant }) => !contestant.forwards);
    const starting = options.starts > 0 ? summary(await starts(answering, options.starts)) : {};
    const growth = options.callers > 0 ? await memory(runners, options.callers) : {};
    const sizes = Object.fromEntries(Object.entries(folders).map(([worker, folder]) => [worker, sizeOf(folder)]));
    const titles = Object.fromEntries(rows.map(({ name, title }) => [name, title]));
    const judged = targets({ titles, samples, sizes, starting });
    options.summary = shortTable({ rows, samples });
    options.figures.peers = { requests, skipped, samples, sizes, starting, growth, targets: judged };
    return markdown({ rows, samples, sizes, starting, growth, judged, skipped, resting, options });
  } finally {
    await Promise.all(running.map((server) => server.stop()));
    await origin?.stop();
    await standIn.stop();
  }
}

/** All of them, each in a workerd of its own that runs for the whole time; those that say they cannot be measured not. */
async function start(wanted, folders, { standIn, origin }, running) {
  process.setMaxListeners(wanted.length + process.getMaxListeners()); // each has one on this process's end
  const [runners, skipped] = [[], []];
  for (const contestant of wanted) {
    const vars = {
      ...(contestant.upstash && { ...standIn.vars, REDIS_TIMEOUT: "30000" }),
      ...(contestant.forwards && { ORIGIN_URL: origin.url }),
      ...contestant.vars,
    };
    const options = { vars, folder: folders[contestant.worker] };
    const server = await startWorkerd(options);
    running.push(server);
    assertWorkerd(server.pid);
    const why = contestant.refuses?.(await health(server));
    if (why) {
      say(`skipped: ${contestant.title}: ${why}`);
      skipped.push({ title: contestant.title, why });
    } else {
      runners.push({ contestant, options, server });
    }
  }
  if (runners.length === 0) throw new Failure("nothing is left to be measured");
  return { runners, skipped };
}

/** Medians of the starts, and by how much they are beyond the bare Worker's of the same turn. */
function summary(starting) {
  const bare = starting[BARE];
  return Object.fromEntries(Object.entries(starting).map(([name, figures]) => {
    const beyond = (figure) => (bare && name !== BARE ? spread(figures[figure].map((ms, turn) => ms - bare[figure][turn])) : undefined);
    return [name, { wall: spread(figures.wall), cpu: spread(figures.cpu), beyond: beyond("wall"), cpuBeyond: beyond("cpu") }];
  }));
}

function markdown({ rows, samples, sizes, starting, growth, judged, skipped, resting, options }) {
  const { rounds, requests, connections, callers, redisDelayMs } = options;
  const [answerers, forwarders] = [false, true].map((kind) => rows.filter(({ forwards }) => forwards === kind));
  const [must, stretch] = [true, false].map((kind) => judged.filter((target) => target.must === kind));
  const parts = [
    "## Compared with other limiters",
    `Each row is a Worker in its own workerd process (\`workerd serve\`). Rows that count in Redis share one real Redis behind one
stand-in for Upstash's REST API${redisDelayMs > 0 ? `, which adds ${redisDelayMs} ms to every call` : ""}. In each of ${rounds} rounds every row gets ${requests} requests over ${connections} connections,
in random order, after a warm-up of ${WARM_UP_ROUNDS * requests} requests. All processes run all the time; the busiest used ${number(resting)} µs of CPU a second while it got no
requests. 1000 callers take turns, and all are admitted. The rows with a remembered denial and with a lease have one caller, another
one each round; the call that records denials some seconds later counts. Every answer's status, headers and body are checked, and
the stand-in counts round trips and billed commands.

CPU is that of the workerd process per request, by the kernel's account of its threads. Figures are medians over the rounds, with
quartiles in brackets. Ratios are taken within a round. Latencies and requests a second include the load generator, the stand-in,
Redis and the origin, which share the machine: compare them with each other only.`,
    ...measured("### Answering", "No row has an origin. Limiters answer with a JSON body of much the same length.", answerers, samples),
    ...measured("### Forwarding", `The same programs with \`ORIGIN_URL\` set. They forward every request to one plain Node HTTP server in its own process, and
the limiters add their headers to its answer. Its body shows that it came from the origin.`, forwarders, samples),
    ...skipped.map(({ title, why }) => `Not measured: ${title} (${why}).`),
    "### Targets",
    ...section("These must be met:", must),
    ...section("These are hoped for:", stretch),
    "### Size and start-up",
    `As uploaded, the JavaScript of others minified. The first answer is that of a workerd process, from before its start, medians of
${options.starts}; beyond that of the bare Worker in the same turn is what the isolate itself needs, and for those that count in Redis the first
decision with it, which sends its script. CPU is the process's until then, beyond the bare Worker's likewise. A kB is 1000 bytes.`,
    sizesTable({ rows, sizes, starting }),
  ];
  if (Object.keys(growth).length > 0) {
    parts.push(
      "### Memory",
      `By how much each grew over one request each of ${callers} callers, all admitted: the JavaScript that is alive after a garbage
collection (by V8's inspector), WebAssembly's linear memory, and the whole process with its garbage, of which the bare Worker, that
keeps nothing, makes as much. edge-limiter keeps at most ${number(bound())} entries (\`DEFAULT_ENTRIES\` in src/store/memory.rs) and then forgets the
callers that have used the least; on Upstash it keeps what the store answered, so that it can stand in for it.
\`hono-rate-limiter\` has a timer to forget by, and no bound; \`@upstash/ratelimit\` keeps those that it denies, and they
are not among these.`,
      memoryTable({ rows, growth }),
    );
  }
  return parts.join("\n\n");
}

/** As the source has it. */
function bound() {
  const source = readFileSync(path.join(root, "src", "store", "memory.rs"), "utf8");
  return Number(/DEFAULT_ENTRIES: usize = ([\d_]+)/.exec(source)[1].replaceAll("_", ""));
}

const measured = (title, text, rows, samples) => (rows.length > 0 ? [title, text, requestsTable({ rows, samples })] : []);

const section = (title, judged) => (judged.length > 0 ? [title, targetsTable(judged)] : []);

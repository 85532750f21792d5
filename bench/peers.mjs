/** Compares edge-limiter with other limiters and minimal Workers, answering and forwarding, in one run on one machine with one Redis and one origin. */

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

/** How much CPU an idle Worker may use per second, in µs. More would be counted as the cost of requests. */
const MAX_IDLE_US = 5000;
/** How long to wait until all Workers are idle. */
const MAX_SETTLING_S = 10;

/** The bare Worker with which start-ups are compared. */
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
  const selected = all.filter(({ name }) => !only || only.includes(name));
  const folders = await programs(selected.map(({ worker }) => worker));
  const standIn = await startStandIn();
  const running = [];
  let origin;
  try {
    origin = await startOrigin();
    const { runners, skipped } = await start(selected, folders, { standIn, origin }, running);
    const rows = runners.map(({ contestant }) => contestant);
    await standIn.delay(options.redisDelayMs);
    const samples = await rounds(runners, standIn, options);
    await standIn.delay(0);
    // After the last requests Workers still compile and collect garbage, so the measurement is repeated until they are idle.
    let resting = Infinity;
    for (let second = 0; second < MAX_SETTLING_S && resting > MAX_IDLE_US; second++) resting = await idle(runners);
    if (resting > MAX_IDLE_US) throw new Failure(`an idle Worker uses ${number(resting)} µs of CPU per second, so the cost of requests cannot be measured: stop other programs and try again`);
    await Promise.all(running.splice(0).map((server) => server.stop()));

    // A forwarding contestant starts like its answering one, so only the latter is measured.
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

/** Starts each contestant in its own workerd process, which runs until the end. Contestants that refuse to be measured are skipped. */
async function start(selected, folders, { standIn, origin }, running) {
  process.setMaxListeners(selected.length + process.getMaxListeners()); // Each server listens for the end of this process.
  const [runners, skipped] = [[], []];
  for (const contestant of selected) {
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
  if (runners.length === 0) throw new Failure("all contestants were skipped, so there is nothing to measure");
  return { runners, skipped };
}

/** The medians of the starts, and the differences from the bare Worker's start in the same turn. */
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
    ...section("These are desirable:", stretch),
    "### Size and start-up",
    `Sizes are as uploaded; the JavaScript of the other limiters is minified. The first answer is the time from before a workerd process is started to its
first answer, the median of ${options.starts} starts. The time beyond that of the bare Worker in the same turn is what the isolate itself needs. For limiters that count in Redis, it
includes the first decision, which sends the script. CPU is that of the process until then, also beyond the bare Worker's. A kB is 1000 bytes.`,
    sizesTable({ rows, sizes, starting }),
  ];
  if (Object.keys(growth).length > 0) {
    parts.push(
      "### Memory",
      `How much the memory grew while ${callers} callers sent one request each, all admitted. JavaScript is the heap that is alive after a garbage
collection (by V8's inspector). Wasm is WebAssembly's linear memory. Process is the whole process with its garbage: the bare Worker, which
keeps nothing, makes as much of it. edge-limiter keeps at most ${number(maxEntries())} entries (\`DEFAULT_ENTRIES\` in src/store/memory.rs) and then forgets the
callers that have used the least. On Upstash it remembers what the store answered, so that memory can decide if the store fails.
\`hono-rate-limiter\` forgets callers by a timer and has no bound. \`@upstash/ratelimit\` keeps only callers that it denies, and
there are none here.`,
      memoryTable({ rows, growth }),
    );
  }
  return parts.join("\n\n");
}

/** The number of entries in the source. */
function maxEntries() {
  const source = readFileSync(path.join(root, "src", "store", "memory.rs"), "utf8");
  return Number(/DEFAULT_ENTRIES: usize = ([\d_]+)/.exec(source)[1].replaceAll("_", ""));
}

const measured = (title, text, rows, samples) => (rows.length > 0 ? [title, text, requestsTable({ rows, samples })] : []);

const section = (title, judged) => (judged.length > 0 ? [title, targetsTable(judged)] : []);

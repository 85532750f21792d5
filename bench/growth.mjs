/** `node bench/growth.mjs [--quick]`: measures how a decision's cost grows with callers, policies, routes and sub-windows. Prints Markdown. */

import { Failure, main, say } from "../scripts/command.mjs";
import { setup } from "../scripts/setup.mjs";
import { compile, inWasm, natively } from "./measured.mjs";
import { NOW, SUB_WINDOW_MS, startScript } from "./script.mjs";
import { inWords, shapeOf } from "./shape.mjs";
import { number, table, whole } from "./table.mjs";

/** The largest variable that Cloudflare allows. */
const MAX_VARIABLE_BYTES = 5 * 1024;
/** The number of callers in measurements that do not depend on it. */
const SOME_CALLERS = 100;
/** Memory per caller is only reported from this number of callers on. With fewer, it is lost in what the allocator holds anyway. */
const MIN_CALLERS_FOR_BYTES = 10_000;

const FULL = {
  redis: [1, 10, 100, 1000, 10_000, 100_000, 1_000_000],
  memory: [1, 10, 100, 1000, 10_000, 50_000, 100_000, 200_000],
  policies: [1, 2, 3, 4, 5, 6, 7, 8],
  routes: [1, 10, 100, 1000],
  ranges: [10, 100, 1000, 10_000],
  subWindows: [1, 15, 30, 60],
  decisions: 10_000,
  stretches: 20,
  seconds: 0.25,
  passes: 3,
};

/** Sizes for a smoke test. The figures mean nothing. */
const QUICK = {
  redis: [1, 10, 100], memory: [1, 10, 100], policies: [1, 2, 4], routes: [1, 10, 100], ranges: [10, 100], subWindows: [1, 2, 3],
  decisions: 60, stretches: 2, seconds: 0.005, passes: 1,
};

/**
 * @param {object} [options]
 * @param {boolean} [options.quick] tiny sizes, for a smoke test
 * @param {(line: string) => void} [options.say] called with a line of progress
 * @returns {Promise<string>} a section of Markdown
 */
export async function growth({ quick = false, say: report = () => {} } = {}) {
  const sizes = quick ? QUICK : FULL;
  report("compiling bench/core, natively and for WebAssembly");
  await compile();
  const script = await startScript();
  try {
    const inRedis = await measureRedis(script, sizes, report);
    report("measuring callers in memory, policies, routes, ranges and sub-windows in the core");
    const core = new Core(sizes);
    const parts = [
      "## How a decision's cost grows",
      "All figures are processor time, the smallest of several stretches. `bench/shape.mjs` derives the words under each table from its numbers.",
      callersInRedis(inRedis.callers),
      await callersInMemory(core, sizes),
      await policies(core, sizes, inRedis.policies),
      await routes(core, sizes),
      await ranges(core, sizes),
      await subWindows(core, sizes, inRedis.subWindows),
    ];
    return `${parts.join("\n\n")}\n`;
  } finally {
    await script.stop();
  }
}

/** Measures everything that needs a Redis. Returns rows of `{size, cpu, commands, …}` for each table. */
export async function measureRedis(script, sizes, report) {
  return {
    policies: await cheapest(sizes.passes, () => redisPolicies(script, sizes, report), "cpu"),
    subWindows: await cheapest(sizes.passes, () => redisSubWindows(script, sizes, report), "cpu"),
    callers: await redisCallers(script, sizes, report),
  };
}

/** The caller of a round, of `count` callers, in an order that no cache can predict. */
function pick(round, count) {
  return (Math.imul(round, 2654435769) >>> 0) % count;
}

async function redisCallers(script, { redis, decisions, stretches }, report) {
  await script.command("FLUSHALL");
  const empty = await script.bytes();
  const rows = [];
  let filled = 0;
  for (const size of redis) {
    report(`measuring ${whole(size)} callers in Redis`);
    await script.fill(filled, size);
    filled = size;
    const callers = await script.callers();
    if (callers !== size) throw new Failure(`Redis holds ${callers} callers, not ${size}`);
    const bytes = ((await script.bytes()) - empty) / size;
    const commands = Array.from({ length: decisions }, (_, round) => script.decision(pick(round, size)));
    rows.push({ size, bytes, ...(await script.measure(commands, stretches)) });
  }
  return rows;
}

async function redisPolicies(script, { policies: counts, decisions, stretches }, report) {
  report("measuring policies per request in Redis");
  const rows = [];
  for (const size of counts) {
    await script.command("FLUSHALL");
    const commands = Array.from({ length: decisions }, (_, round) => script.decision(round % SOME_CALLERS, { policies: size }));
    rows.push({ size, ...(await script.measure(commands, stretches)) });
  }
  return rows;
}

async function redisSubWindows(script, { subWindows: counts, decisions, stretches }, report) {
  report("measuring sub-windows in Redis");
  const rows = [];
  for (const size of counts) {
    await script.command("FLUSHALL");
    const times = Array.from({ length: size }, (_, at) => NOW + at * SUB_WINDOW_MS);
    const callers = Array.from({ length: SOME_CALLERS }, (_, caller) => caller);
    for (const now of times) await script.all(callers.map((caller) => script.decision(caller, { now })));
    const state = await script.state(0);
    const occupied = state.split(",").length;
    if (occupied !== size) throw new Failure(`a state occupies ${occupied} sub-windows, not ${size}`);
    const now = times.at(-1);
    const commands = Array.from({ length: decisions }, (_, round) => script.decision(round % SOME_CALLERS, { now }));
    rows.push({ size, bytes: state.length, ...(await script.measure(commands, stretches)) });
  }
  return rows;
}

/** Measures the loops of bench/core. All sizes are measured in turn, several times, so that a busy minute of the machine affects all alike. */
class Core {
  constructor({ seconds, passes }) {
    this.seconds = seconds;
    this.passes = passes;
  }

  native(name, sizes) {
    return cheapest(this.passes, () => natively(sizes.map((size) => [name, size]), this.seconds), "ns");
  }

  wasm(native) {
    return cheapest(this.passes, () => inWasm(native, this.seconds), "ns");
  }
}

/** Measures the same rows several times, and returns the cheapest measurement of each row. */
async function cheapest(passes, measure, cost) {
  let rows = await measure();
  for (let pass = 1; pass < passes; pass += 1) {
    const again = await measure();
    rows = rows.map((row, i) => (again[i][cost] < row[cost] ? again[i] : row));
  }
  return rows;
}

/** A table whose first column is the size, and the shape of the growth of each column that is a cost. */
function section(title, what, columns, allowed) {
  const sizes = columns[0].rows.map(({ size }) => size);
  const cells = sizes.map((size, i) => [whole(size), ...columns.map(({ rows, of = ns }) => number(of(rows[i])))]);
  const shapes = columns
    .filter(({ isCost = true }) => isCost)
    .map(({ heading, rows, of = ns }) => {
      const points = rows.map((row) => ({ size: row.size, cost: of(row) }));
      return `- ${heading}: ${inWords(shapeOf(points), what, allowed)}`;
    });
  return [`### ${title}`, table([what, ...columns.map(({ heading }) => heading)], cells), shapes.join("\n")].join("\n\n");
}

const ns = (row) => row.ns;
const bytesPerCaller = ({ size, bytes }) => (size >= MIN_CALLERS_FOR_BYTES ? bytes / size : undefined);

function callersInRedis(rows) {
  const part = section(
    "Callers in Redis",
    "callers",
    [
      { heading: "Redis's CPU, µs", rows, of: (row) => row.cpu },
      { heading: "billed commands", rows, of: (row) => row.commands },
      { heading: "bytes per caller", rows, of: (row) => (row.size >= MIN_CALLERS_FOR_BYTES ? row.bytes : undefined), isCost: false },
    ],
    "logarithmic",
  );
  return `${part}\n\nOne quota, one sub-window occupied. A real Redis, decisions pipelined; its CPU includes reading and answering commands.`;
}

async function callersInMemory(core, { memory }) {
  const held = await core.native("MemoryHeld", memory);
  const evicting = await core.native("MemoryEvicting", memory);
  const expiring = await core.native("MemoryExpiring", memory);
  const denial = await core.native("Denial", memory);
  const gate = await core.native("Gate", memory);
  const [heldWasm, evictingWasm] = [await core.wasm(held), await core.wasm(evicting)];
  const part = section(
    "Callers in memory",
    "callers",
    [
      { heading: "held, ns", rows: held },
      { heading: "held, Wasm, ns", rows: heldWasm },
      { heading: "new, one evicted, ns", rows: evicting },
      { heading: "new, one evicted, Wasm, ns", rows: evictingWasm },
      { heading: "new, one expired, ns", rows: expiring },
      { heading: "remembered denial, ns", rows: denial },
      { heading: "whole gate, ns", rows: gate },
      { heading: "bytes per caller", rows: held, of: bytesPerCaller, isCost: false },
      { heading: "bytes per caller, Wasm", rows: heldWasm, of: bytesPerCaller, isCost: false },
    ],
    "logarithmic",
  );
  return `${part}\n\nBy default the map takes 50,000 entries. From there on, a new caller evicts another. Here its bound is the number of callers.
The map is a hash table and two balanced trees. Large maps also outgrow the processor's caches, which these times include.`;
}

async function policies(core, { policies: counts }, redis) {
  const part = section(
    "Policies per request",
    "policies",
    [
      { heading: "billed commands", rows: redis, of: (row) => row.commands },
      { heading: "Redis's CPU, µs", rows: redis, of: (row) => row.cpu },
      { heading: "memory store, ns", rows: await core.native("MemoryQuotas", counts) },
    ],
    "linear",
  );
  return `${part}\n\nEach policy is a separate quota that is read, decided and written, so linear growth is to be expected.`;
}

async function routes(core, { routes: counts }) {
  const kinds = [
    ["`/api/r{i}`", "Literal"], ["`/api/*/r{i}`", "Star"], ["`/api/r{i}/**`", "Below"], ["`/**/r{i}`", "Above"], ["all four in turn", "Mixed"],
  ];
  const columns = [];
  for (const [pattern, kind] of kinds) {
    for (const which of ["last", "none"]) {
      const name = `Routes${kind}${which[0].toUpperCase()}${which.slice(1)}`;
      columns.push({ heading: `${pattern}, ${which}`, rows: await core.native(name, counts) });
    }
  }
  const part = section("Routes", "routes", columns, "logarithmic");
  const indistinct = section(
    "Routes that the segments of a path do not distinguish",
    "routes",
    [
      { heading: "`/files/*-r{i}.txt`, last, ns", rows: await core.native("RoutesEndsLast", counts) },
      { heading: "`/**/r{i}/**`, last, ns", rows: await core.native("RoutesMiddleLast", counts) },
    ],
    "linear",
  );
  const config = section("Reading a configuration", "routes", [{ heading: "ns", rows: await core.native("Config", counts) }], "linear");
  const maxRoutes = Math.floor(MAX_VARIABLE_BYTES / `${JSON.stringify({ path: "/**/r99/**", policies: ["auth"] })},`.length);
  return [
    part,
    "In nanoseconds, natively: for a path that matches the last route, and for one that matches none.",
    indistinct,
    `Each of these routes is tried in turn. Linear growth is within the target because there can only be few: Cloudflare allows 5 KB for a variable, which is about ${maxRoutes} such routes.`,
    config,
    "This happens once for each `env` object, not for each request.",
  ].join("\n\n");
}

async function ranges(core, { ranges: counts }) {
  const found = section(
    "Blocked ranges",
    "ranges",
    [
      { heading: "apart, in one, ns", rows: await core.native("RangesIn", counts) },
      { heading: "apart, in none, ns", rows: await core.native("RangesOut", counts) },
      { heading: "in three wide ones, ns", rows: await core.native("RangesNested", counts) },
      { heading: "IPv6, in one, ns", rows: await core.native("RangesSix", counts) },
    ],
    "logarithmic",
  );
  const built = section("Loading blocked ranges", "ranges", [{ heading: "ns", rows: await core.native("RangesBuilt", counts) }], "linear");
  return [
    found,
    "The time to find the ranges that contain a caller's address, natively: a binary search, and a step for each range around it. The allow-list is searched in the same way.",
    built,
    "This happens once for each change of the list. Sorting is a little more than linear.",
  ].join("\n\n");
}

async function subWindows(core, { subWindows: counts }, redis) {
  const part = section(
    "Sub-windows occupied",
    "sub-windows",
    [
      { heading: "pure decision, ns", rows: await core.native("SlidingAllowed", counts) },
      { heading: "denied, ns", rows: await core.native("SlidingDenied", counts) },
      { heading: "text read and written, ns", rows: await core.native("StateText", counts) },
      { heading: "Redis's CPU, µs", rows: redis, of: (row) => row.cpu },
      { heading: "bytes of state", rows: redis, of: (row) => row.bytes },
    ],
    "linear",
  );
  return `${part}\n\nEvery sub-window is read and summed, so linear growth is to be expected. There are at most 60 and the one under way.`;
}

await main(import.meta.url, async (args) => {
  await setup({ redis: true });
  console.log(await growth({ quick: args.includes("--quick"), say }));
});

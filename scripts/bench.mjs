/**
 * `npm run bench [-- SECTION…] [OPTIONS]`: measures, and prints Markdown. The sections are listed below. Without a section it measures
 * those marked `byDefault`.
 *   --write              also replaces the measured sections in docs/benchmarks.md, and the summary in the README
 *   --json FILE          writes the figures to a file
 *   --redis-delay-ms N   delays each call to Redis by N ms, as if Redis were that far away
 *   --only NAME[,NAME]   measures only these contestants
 *   --rounds N           how often every contestant is measured
 *   --requests N         requests of each contestant in each round
 *   --connections N      connections over which the requests are sent
 *   --starts N           how often each contestant is started, to measure its start-up; 0 leaves that out
 *   --callers N          how many callers each contestant meets, to measure its memory; 0 leaves that out
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import { Failure, main, root, say } from "./command.mjs";
import { setup } from "./setup.mjs";

/** A section is `bench/NAME.mjs`, which exports a function NAME that takes the options and returns Markdown. */
const SECTIONS = {
  peers: { byDefault: true },
  core: { byDefault: true },
  node: { byDefault: true },
  growth: { byDefault: false },
  transports: { byDefault: false },
  redis: { byDefault: false },
  sentinel: { byDefault: false },
};

const DOCUMENT = path.join(root, "docs", "benchmarks.md");
const README = path.join(root, "README.md");

/** The place of the README's summary of the section `peers`. */
const SUMMARY = /(<!-- bench -->)[^]*(<!-- end of bench -->)/;

/** The numeric options. `min` is the smallest value that makes sense. */
const NUMBERS = {
  "redis-delay-ms": { default: "0", min: 0 },
  rounds: { default: "7", min: 1 },
  requests: { default: "2000", min: 10 },
  connections: { default: "8", min: 1 },
  starts: { default: "7", min: 0 },
  callers: { default: "100000", min: 0 },
};

await main(import.meta.url, async (args) => {
  const { sections, options, write, json } = read(args);
  await setup({ wasm: true, redis: true });
  await build();
  const { provenance } = await import("../bench/machine.mjs");
  const began = performance.now();
  const written = {};
  for (const section of sections) {
    const { [section]: measure } = await import(`../bench/${section}.mjs`);
    written[section] = `${await measure(options)}\n\n${sources(provenance())}`;
    console.log(`\n${written[section]}\n`);
  }
  say(`measured in ${Math.round((performance.now() - began) / 1000)} s`);
  if (json) writeFileSync(json, JSON.stringify({ ...provenance(), ...options.figures }, null, 2));
  if (write) {
    writeFileSync(DOCUMENT, document(written));
    if (options.summary) writeFileSync(README, readFileSync(README, "utf8").replace(SUMMARY, `$1\n\n${options.summary}\n\n$2`));
    say(`wrote ${path.relative(root, DOCUMENT)}`);
  }
});

function read(args) {
  const names = Object.keys(SECTIONS);
  const usage = `usage: npm run bench -- [${names.join("|")}] [--write] [--json FILE] [--only NAME,NAME] ${Object.keys(NUMBERS).map((name) => `[--${name} N]`).join(" ")}`;
  const wrong = (message) => new Failure(`${message}\n${usage}`, 2);
  const strings = Object.fromEntries(Object.entries(NUMBERS).map(([name, { default: value }]) => [name, { type: "string", default: value }]));
  let values, positionals;
  try {
    ({ values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { write: { type: "boolean", default: false }, json: { type: "string" }, only: { type: "string" }, ...strings },
    }));
  } catch (error) {
    throw wrong(error.message);
  }
  const unknown = positionals.find((name) => !names.includes(name));
  if (unknown) throw wrong(`there is no section ${unknown}`);
  const options = { only: values.only?.split(","), figures: {} };
  for (const [name, { min }] of Object.entries(NUMBERS)) {
    const number = Number(values[name]);
    if (!/^\d+$/.test(values[name]) || number < min) throw wrong(`--${name}: a whole number, at least ${min}, not ${values[name]}`);
    options[name.replace(/-(.)/g, (_, letter) => letter.toUpperCase())] = number;
  }
  if (values.write && (values.only || options.redisDelayMs > 0)) {
    throw wrong("--write: docs/benchmarks.md has all contestants and no delay, so leave --only and --redis-delay-ms out");
  }
  const sections = positionals.length > 0 ? positionals : names.filter((name) => SECTIONS[name].byDefault);
  return { sections, options, write: values.write, json: values.json };
}

/** The text of docs/benchmarks.md, in which newly measured sections replace the old ones. */
function document(written) {
  const former = existsSync(DOCUMENT) ? readFileSync(DOCUMENT, "utf8") : "";
  const sections = Object.keys(SECTIONS).flatMap((name) => {
    const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`];
    const text = written[name] ?? former.split(begin)[1]?.split(end)[0].trim();
    return text ? [`${begin}\n\n${text}\n\n${end}`] : [];
  });
  const head = `# Benchmarks

Written by \`npm run bench -- --write\`; not by hand. \`npm run bench -- --redis-delay-ms 20\` shows what round trips cost with a Redis that
is 20 ms away. Absolute figures are this machine's; ratios carry over further.`;
  return `${[head, ...sections].join("\n\n")}\n`;
}

function sources(provenance) {
  return `Measured with: ${Object.entries(provenance).map(([name, value]) => `${name} ${value}`).join("; ")}.`;
}

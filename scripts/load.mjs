/**
 * `npm run load-test [-- SCENARIO… OPTIONS]` and `npm run security-test`: run Artillery against the built Worker in workerd with a real
 * Redis, all on this machine's loopback. They fail if a request is admitted that should be denied, or denied that should be admitted.
 *   --vus N              the number of virtual users, in place of each scenario's own
 *   --seconds N          the time over which they arrive (in `ramp`: the length of a step)
 *   --json FILE          writes the report to this file too; it is always in tests/load/reports
 *   --var NAME=VALUE     sets a variable of the limiters. With another limit a scenario has to fail, which shows that it measures something
 */
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import { Failure, main, say } from "./command.mjs";
import { setup } from "./setup.mjs";

/** A scenario is `tests/load/scenarios/NAME.yml` and `NAME.mjs`. */
const SUITES = {
  load: ["authentication", "api", "payments", "sensitive", "distributed", "ramp"],
  security: ["brute-force", "header-spoofing", "path-tricks", "token-guessing", "escalation", "blocked-range", "flood", "oversized"],
};

/**
 * The smallest and largest value of each numeric option. Fewer virtual users would not reach the limits. A longer run would go beyond
 * the window for which the scenarios know the exact number of admitted requests.
 */
const NUMBERS = { vus: [50, 5000], seconds: [5, 45] };

await main(import.meta.url, async ([suite, ...args]) => {
  const { scenarios, options, json } = read(suite, args);
  await setup({ wasm: true, redis: true, load: true });
  await build();
  const { runScenario } = await import("../tests/load/harness/scenario.mjs");
  const { keep, table } = await import("../tests/load/harness/report.mjs");
  const results = [];
  for (const name of scenarios) {
    say(name);
    const notes = [];
    const note = (line) => {
      notes.push(line);
      say(`  ${line}`);
    };
    const result = await runScenario(name, { ...options, note });
    results.push({ ...result, notes });
    say(`  ${result.broken.length === 0 ? `ok: ${result.proves}` : "FAILED"}`);
    for (const { what, found, wanted } of result.broken) say(`  FAILED: ${what}: expected ${wanted}, found ${shortened(found)}`);
  }
  console.log(`\n${table(results)}\n`);
  say(`report: ${keep(suite, options, results, json)}`);
  const failed = results.filter(({ broken }) => broken.length > 0).map(({ name }) => name);
  if (failed.length > 0) throw new Failure(`scenarios failed: ${failed.join(", ")}`);
});

/** A value as text, cut after 300 characters. The report has the whole. */
function shortened(found) {
  const text = JSON.stringify(found) ?? "nothing";
  return text.length <= 300 ? text : `${text.slice(0, 300)}…`;
}

function read(suite, args) {
  const names = SUITES[suite];
  if (!names) throw new Failure(`usage: node scripts/load.mjs ${Object.keys(SUITES).join("|")}`, 2);
  const wrong = (message) =>
    new Failure(`${message}\nusage: npm run ${suite}-test -- [${names.join("|")}]… [--vus N] [--seconds N] [--json FILE] [--var NAME=VALUE]…`, 2);
  let values, positionals;
  try {
    ({ values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: { vus: { type: "string" }, seconds: { type: "string" }, json: { type: "string" }, var: { type: "string", multiple: true, default: [] } },
    }));
  } catch (error) {
    throw wrong(error.message);
  }
  const unknown = positionals.find((name) => !names.includes(name));
  if (unknown) throw wrong(`there is no scenario ${unknown}`);
  const options = { vars: Object.fromEntries(values.var.map(variable)) };
  for (const [name, [min, max]] of Object.entries(NUMBERS)) {
    if (values[name] === undefined) continue;
    options[name] = Number(values[name]);
    if (!/^\d+$/.test(values[name]) || options[name] < min || options[name] > max) throw wrong(`--${name}: a whole number from ${min} to ${max}, not ${values[name]}`);
  }
  return { scenarios: positionals.length > 0 ? positionals : names, options, json: values.json };

  function variable(text) {
    const [, name, value] = /^([A-Z0-9_]+)=(.*)$/.exec(text) ?? [];
    if (!name) throw wrong(`--var: NAME=VALUE, not ${text}`);
    // A URL from the command line could send the load to another machine.
    if (/_URL$|_TOKEN$|^REDIS_(ENABLED|KEY_PREFIX)$/.test(name)) throw wrong(`--var: ${name} cannot be set, because the test sets it itself`);
    return [name, value];
  }
}

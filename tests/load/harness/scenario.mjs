/**
 * Runs one scenario: starts limiters with their own Redis, sends traffic with Artillery, and checks the results. `scenarios/NAME.yml`
 * defines what is sent, `scenarios/NAME.mjs` what has to hold.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { startShared } from "../../harness/limited.mjs";
import { send } from "../../harness/request.mjs";
import { SHORTEST_WINDOW_S, VARS } from "../limits.mjs";
import { artillery, loopback } from "./artillery.mjs";
import { Criteria } from "./criteria.mjs";
import { eventually, operatorOf } from "./operator.mjs";
import { reader } from "./redis.mjs";

/** The most time that the phases of a scenario may take. */
const MAX_PHASES_S = 120;

/**
 * @param {string} name
 * @param {object} options
 * @param {number} [options.vus] the number of virtual users, in place of the scenario's
 * @param {number} [options.seconds] the time in which they start, in place of the scenario's
 * @param {object} [options.vars] variables of the limiters, which override the scenario's
 * @param {(line: string) => void} options.note receives lines for the report
 */
export async function runScenario(name, { vus, seconds, vars, note }) {
  const scenario = await import(`../scenarios/${name}.mjs`);
  const script = fileURLToPath(new URL(`../scenarios/${name}.yml`, import.meta.url));
  const shared = await startShared();
  try {
    const limiters = [];
    for (let process = 0; process < (scenario.processes ?? 1); process++) {
      limiters.push(await shared.warm({ ...VARS, ...scenario.vars, ...vars }));
    }
    const client = await shared.standIn.redis.client();
    await client.flushDb(); // removes what the start has counted, but not the script
    let deniedOutside = 0;
    const ask = async (caller, path, headers = {}, limiter = limiters[0]) => {
      const answer = await send(limiter.url, { path, headers: { "CF-Connecting-IP": caller, ...headers } });
      if (answer.status === 429) deniedOutside++;
      return answer;
    };
    const tools = { ask, operator: operatorOf(limiters[0]), everywhere: (callers, outcome) => everywhere(limiters, callers, outcome, ask) };
    const users = vus && Math.min(vus, scenario.maxVus ?? Infinity);
    const variables = { ...(limiters.length > 1 ? { limiters: limiters.map(({ url }) => loopback(url)).join(" ") } : {}), ...(await scenario.variables?.({ ...tools, vus: users })) };
    const run = (own) => artillery({
      script,
      target: limiters[0].url,
      maxSeconds: MAX_PHASES_S,
      ...own,
      variables: { ...variables, ...own.variables },
    });
    const before = { billed: await shared.standIn.billed(), bytes: residentBytes(limiters[0].pid) };
    const { tally, steps } = scenario.drive
      ? await scenario.drive({ artillery: run, vus: users, seconds, note, limiters })
      : { tally: await run({ phase: phase(script, users, seconds) }) };
    const billed = (await shared.standIn.billed()) - before.billed;
    const grownBytes = before.bytes && residentBytes(limiters[0].pid) - before.bytes;

    const redis = reader(client);
    const criteria = new Criteria(tally, redis);
    checkHealthyRun(criteria, tally, limiters, scenario.drive ? Infinity : SHORTEST_WINDOW_S);
    const recorded = scenario.recorded ?? ((run) => run.all("denied"));
    await checkRecorded(criteria, tools.operator, deniedOutside + recorded(tally));
    await scenario.judge({ run: tally, criteria, redis, billed, grownBytes, limiters, steps, note, ...tools });
    return { name, proves: scenario.proves, tally, steps, billed, criteria: criteria.results, broken: criteria.broken };
  } finally {
    await shared.stop();
  }
}

/** Checks what has to hold for every scenario. A run has to be shorter than `windowS`. */
function checkHealthyRun(criteria, tally, limiters, windowS) {
  criteria.atLeast("requests", tally.requests, 1);
  criteria.equal("requests with an outcome", tally.requests - tally.errors, tally.names.reduce((sum, name) => sum + tally.sent(name), 0));
  criteria.equal("errors of connections and virtual users", tally.errors, 0);
  criteria.equal("answers that are 5xx", tally.all("failed"), 0);
  criteria.equal("denials without a reason or a Retry-After", tally.all("unexplained"), 0);
  criteria.equal("decisions that Redis did not make", tally.all("degraded"), 0);
  criteria.equal("limiter processes that still run", limiters.filter(({ alive }) => alive).length, limiters.length);
  criteria.equal("log lines of the limiters", limiters.map((limiter) => limiter.logs()).join(""), "");
  if (windowS < Infinity) criteria.atMost("seconds, so that no request left its window", tally.seconds, windowS - 1);
}

/** Checks that the event log counts every denial, in an event or as left out. */
async function checkRecorded(criteria, operator, wanted) {
  criteria.equal("denials in the event log", await eventually(() => operator.recorded(), (found) => found >= wanted), wanted);
}

/** Counts the pairs of a caller and a limiter for which the outcome, `admitted` or `blocked`, is seen in time. */
async function everywhere(limiters, callers, outcome, ask) {
  const isSeen = async (caller, limiter) => {
    const answer = await ask(caller, "/api/products", {}, limiter);
    return outcome === "admitted" ? answer.status === 200 : answer.status === 429 && answer.json().blocked === true;
  };
  const pairs = limiters.flatMap((limiter) => callers.map((caller) => [caller, limiter]));
  const seen = await Promise.all(pairs.map(([caller, limiter]) => eventually(() => isSeen(caller, limiter), Boolean)));
  return seen.filter(Boolean).length;
}

/** Returns the phase to run. Values that are not given come from the script, because Artillery can only replace a whole phase. */
function phase(script, vus, seconds) {
  const [, duration, arrivalCount] = /^ *phases: \[\{.* duration: (\d+), arrivalCount: (\d+) \}\]$/m.exec(readFileSync(script, "utf8"));
  return { duration: seconds ?? Number(duration), arrivalCount: vus ?? Number(arrivalCount) };
}

/** Returns a process's resident memory, or `undefined` on systems without /proc. */
function residentBytes(pid) {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * 4096;
  } catch {
    return undefined;
  }
}

/**
 * One scenario from beginning to end: limiters on a Redis of their own, Artillery against them, and whether what came of it is
 * what has to. `scenarios/NAME.yml` is what is sent, `scenarios/NAME.mjs` what has to come of it.
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

/** Longer than any phase of a scenario may be. */
const LONGEST_S = 120;

/**
 * @param {string} name
 * @param {object} options
 * @param {number} [options.vus] virtual users, instead of the scenario's own
 * @param {number} [options.seconds] over which they come, instead of the scenario's own
 * @param {object} [options.vars] of the limiters, over the scenario's own
 * @param {(line: string) => void} options.note what there is to say of it
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
    await client.flushDb(); // of what starting has counted; the script stays
    let deniedOutside = 0;
    const ask = async (caller, path, headers = {}, limiter = limiters[0]) => {
      const answer = await send(limiter.url, { path, headers: { "CF-Connecting-IP": caller, ...headers } });
      if (answer.status === 429) deniedOutside++;
      return answer;
    };
    const tools = { ask, operator: operatorOf(limiters[0]), everywhere: (callers, outcome) => everywhere(limiters, callers, outcome, ask) };
    const users = vus && Math.min(vus, scenario.mostVus ?? Infinity);
    const variables = { ...(limiters.length > 1 ? { limiters: limiters.map(({ url }) => loopback(url)).join(" ") } : {}), ...(await scenario.variables?.({ ...tools, vus: users })) };
    const run = (own) => artillery({
      script,
      target: limiters[0].url,
      atMostSeconds: LONGEST_S,
      ...own,
      variables: { ...variables, ...own.variables },
    });
    const before = { billed: await shared.standIn.billed(), bytes: residentBytes(limiters[0].pid) };
    const { tally, steps } = scenario.drive
      ? await scenario.drive({ artillery: run, vus: users, seconds, note, limiters })
      : { tally: await run({ phase: phase(script, users, seconds) }) };
    const billed = (await shared.standIn.billed()) - before.billed;
    const grown = before.bytes && residentBytes(limiters[0].pid) - before.bytes;

    const redis = reader(client);
    const criteria = new Criteria(tally, redis);
    beSound(criteria, tally, limiters, scenario.drive ? Infinity : SHORTEST_WINDOW_S);
    const recorded = scenario.recorded ?? ((run) => run.all("denied"));
    await beRecorded(criteria, tools.operator, deniedOutside + recorded(tally));
    await scenario.judge({ run: tally, criteria, redis, billed, grown, limiters, steps, note, ...tools });
    return { name, proves: scenario.proves, tally, steps, billed, criteria: criteria.results, broken: criteria.broken };
  } finally {
    await shared.stop();
  }
}

/** What every scenario has to be, whatever it is about. */
function beSound(criteria, tally, limiters, longest) {
  criteria.atLeast("requests", tally.requests, 1);
  criteria.equal("every request has an outcome", tally.requests - tally.errors, tally.names.reduce((sum, name) => sum + tally.sent(name), 0));
  criteria.equal("errors of connections and virtual users", tally.errors, 0);
  criteria.equal("answers that are the server's failure", tally.all("failed"), 0);
  criteria.equal("denials that do not say why and until when", tally.all("unexplained"), 0);
  criteria.equal("decisions that Redis did not make", tally.all("degraded"), 0);
  criteria.equal("processes that live", limiters.filter(({ alive }) => alive).length, limiters.length);
  criteria.equal("what they logged", limiters.map((limiter) => limiter.logs()).join(""), "");
  if (longest < Infinity) criteria.atMost("seconds, so that nothing left a window", tally.seconds, longest - 1);
}

/** The log tells of every denial, one by one or as left out. */
async function beRecorded(criteria, operator, wanted) {
  criteria.equal("denials on record", await eventually(() => operator.recorded(), (found) => found >= wanted), wanted);
}

/** How many of so many pairs of a caller and a limiter come to that outcome, `admitted` or `blocked`, in time. */
async function everywhere(limiters, callers, outcome, ask) {
  const comes = async (caller, limiter) => {
    const answer = await ask(caller, "/api/products", {}, limiter);
    return outcome === "admitted" ? answer.status === 200 : answer.status === 429 && answer.json().blocked === true;
  };
  const pairs = limiters.flatMap((limiter) => callers.map((caller) => [caller, limiter]));
  const came = await Promise.all(pairs.map(([caller, limiter]) => eventually(() => comes(caller, limiter), (does) => does)));
  return came.filter(Boolean).length;
}

/** What is not given is the script's own: Artillery takes a phase whole or not at all. */
function phase(script, vus, seconds) {
  const [, duration, arrivalCount] = /^ *phases: \[\{.* duration: (\d+), arrivalCount: (\d+) \}\]$/m.exec(readFileSync(script, "utf8"));
  return { duration: seconds ?? Number(duration), arrivalCount: vus ?? Number(arrivalCount) };
}

/** What a process holds; `undefined` where there is no such file. */
function residentBytes(pid) {
  try {
    return Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]) * 4096;
  } catch {
    return undefined;
  }
}

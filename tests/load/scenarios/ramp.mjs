import { readFileSync } from "node:fs";
import { Tally } from "../harness/tally.mjs";

/** A step is carried if no request fails, none is denied, memory decides none, and 99 of 100 are answered within this time. */
const P99_MS = 250;

/** At least this share of the step's requests must have been sent. Artillery on the same cores must not be the limit. */
const MIN_SENT_SHARE = 0.9;

/** Virtual users of the first step. Each further step has twice as many, until one is not carried. */
const FIRST_USERS = 64;

/** With more virtual users, sockets and not the two cores would be the limit. */
const MAX_USERS = 4096;

/** How many further steps are taken halfway between the largest that was carried and the smallest that was not. */
const REFINEMENTS = 2;

/** The seconds in which the users of a step start, and for which all of them stay. */
const [START_S, STEP_S] = [4, 10];

export const proves = `the number of concurrent virtual users, each with a request a second, that are carried: no error, no denial, p99 within ${P99_MS} ms`;

/** The default time-out, so that a Redis that is too slow counts. */
export const vars = { REDIS_TIMEOUT: 1000 };

/** Runs the steps. The figures in the table are those of the steps that were carried. */
export async function drive({ artillery, vus = MAX_USERS, seconds = STEP_S, note, limiters }) {
  const steps = [];
  const run = async (users) => {
    const cpu = cpuSeconds(limiters[0].pid);
    const tally = await artillery({
      phase: { duration: START_S, arrivalCount: users },
      variables: { seconds: START_S + seconds, step: steps.length },
      maxSeconds: START_S + seconds,
    });
    const { p50, p99 } = tally.latency();
    const step = {
      users, p50, p99, requests: tally.requests, share: tally.requests / expected(users, seconds),
      errors: tally.errors + tally.of("user", "failed"), notAdmitted: tally.sent("user") - tally.of("user", "admitted"), degraded: tally.all("degraded"),
      limiterCpu: cpu === undefined ? undefined : (cpuSeconds(limiters[0].pid) - cpu) / (START_S + seconds),
    };
    step.carried = p99 <= P99_MS && step.share >= MIN_SENT_SHARE && step.errors + step.notAdmitted + step.degraded === 0;
    steps.push({ ...step, tally });
    note(describe(step));
    return step.carried;
  };

  let [carried, beyond] = [0, undefined];
  for (let users = Math.min(FIRST_USERS, vus); users <= vus && beyond === undefined; users *= 2) {
    if (await run(users)) carried = users;
    else beyond = users;
  }
  for (let time = 0; time < REFINEMENTS && carried > 0 && beyond !== undefined; time++) {
    const users = Math.round((carried + beyond) / 2);
    if (await run(users)) carried = users;
    else beyond = users;
  }
  const carriedSteps = steps.filter((step) => step.carried).sort((one, other) => one.users - other.users);
  return { tally: Tally.sum(carriedSteps.map(({ tally }) => tally)), steps: steps.map(({ tally: _, ...step }) => step) };
}

/** Each user sends one request at its start and one each second after that. The step ends `seconds` after the first user's first turn, which takes a second. */
const expected = (users, seconds) => users * (START_S / 2 + seconds + 1.5);

function describe({ users, requests, p50, p99, share, errors, notAdmitted, degraded, limiterCpu, carried }) {
  const cpu = limiterCpu === undefined ? "" : `, workerd ${Math.round(limiterCpu * 100)} % of a core`;
  return `${users} virtual users: ${requests} requests, ${Math.round(share * 100)} % of theirs, p50 ${p50} ms, p99 ${p99} ms, ${errors} errors, ${notAdmitted} not admitted, ${degraded} decided by memory${cpu}: ${carried ? "carried" : "not carried"}`;
}

export async function judge({ criteria, steps, note }) {
  const best = Math.max(0, ...steps.filter(({ carried }) => carried).map(({ users }) => users));
  const beyond = steps.filter(({ carried, users }) => !carried && users > best).map(({ users }) => users);
  criteria.equal("whether the first step was carried", steps[0].carried, true);
  // Even if a step is too much for the machine, no caller within its limit may be denied.
  criteria.equal("requests that were denied, in any step", steps.reduce((sum, { notAdmitted, errors }) => sum + Math.max(0, notAdmitted - errors), 0), 0);
  if (best === 0) return;
  criteria.allAdmitted("user");
  note(`carried: ${best} concurrent virtual users${beyond.length > 0 ? `; not carried: ${Math.min(...beyond)}` : "; every step was carried"}`);
}

/** Returns a process's CPU time in seconds, user and system, or `undefined` on systems without /proc. */
function cpuSeconds(pid) {
  try {
    // Fields 14 and 15, in hundredths of a second. The fields are counted from the end of the name, which may have spaces.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return undefined;
  }
}

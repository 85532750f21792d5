import { readFileSync } from "node:fs";
import { Tally } from "../harness/tally.mjs";

/** What is still carried: no error, nothing denied, nothing that memory had to decide, 99 of 100 requests answered within this, */
const P99_MS = 250;

/** and this share of what so many users ask in a second was sent at all: Artillery, on the same cores, is not what is measured. */
const SENT = 0.9;

/** Of the first step; each has twice as many as the one before, until one is not carried. */
const FIRST = 64;

/** Beyond this it is not two cores that are measured but sockets. */
const MOST = 4096;

/** Then, so often, halfway between what was carried and what was not. */
const REFINED = 2;

/** In which the users of a step come, and how long all of them are there, in seconds. */
const [COMING_S, STEP_S] = [4, 10];

export const proves = `how many concurrent virtual users, each asking once a second, are carried: no error, none denied, p99 within ${P99_MS} ms`;

/** The shipped time-out: a Redis that is too slow is to be seen. */
export const vars = { REDIS_TIMEOUT: 1000 };

/** Only the steps that were carried make the figures in the table. */
export async function drive({ artillery, vus = MOST, seconds = STEP_S, note, limiters }) {
  const steps = [];
  const run = async (users) => {
    const cpu = cpuSeconds(limiters[0].pid);
    const tally = await artillery({
      phase: { duration: COMING_S, arrivalCount: users },
      variables: { seconds: COMING_S + seconds, step: steps.length },
      atMostSeconds: COMING_S + seconds,
    });
    const { p50, p99 } = tally.latency();
    const step = {
      users, p50, p99, requests: tally.requests, share: tally.requests / expected(users, seconds),
      errors: tally.errors + tally.of("user", "failed"), notAdmitted: tally.sent("user") - tally.of("user", "admitted"), degraded: tally.all("degraded"),
      limiterCpu: cpu === undefined ? undefined : (cpuSeconds(limiters[0].pid) - cpu) / (COMING_S + seconds),
    };
    step.carried = p99 <= P99_MS && step.share >= SENT && step.errors + step.notAdmitted + step.degraded === 0;
    steps.push({ ...step, tally });
    note(said(step));
    return step.carried;
  };

  let [carried, beyond] = [0, undefined];
  for (let users = Math.min(FIRST, vus); users <= vus && beyond === undefined; users *= 2) {
    if (await run(users)) carried = users;
    else beyond = users;
  }
  for (let time = 0; time < REFINED && carried > 0 && beyond !== undefined; time++) {
    const users = Math.round((carried + beyond) / 2);
    if (await run(users)) carried = users;
    else beyond = users;
  }
  const good = steps.filter((step) => step.carried).sort((one, other) => one.users - other.users);
  return { tally: Tally.together(good.map(({ tally }) => tally)), steps: steps.map(({ tally: _, ...step }) => step) };
}

/** One request at the coming, one a second after that; the end is `seconds` after the first one's first turn, which takes a second. */
const expected = (users, seconds) => users * (COMING_S / 2 + seconds + 1.5);

function said({ users, requests, p50, p99, share, errors, notAdmitted, degraded, limiterCpu, carried }) {
  const cpu = limiterCpu === undefined ? "" : `, workerd ${Math.round(limiterCpu * 100)} % of a core`;
  return `${users} virtual users: ${requests} requests, ${Math.round(share * 100)} % of theirs, p50 ${p50} ms, p99 ${p99} ms, ${errors} errors, ${notAdmitted} not admitted, ${degraded} decided by memory${cpu}: ${carried ? "carried" : "not carried"}`;
}

export async function judge({ criteria, steps, note }) {
  const best = Math.max(0, ...steps.filter(({ carried }) => carried).map(({ users }) => users));
  const beyond = steps.filter(({ carried, users }) => !carried && users > best).map(({ users }) => users);
  criteria.equal("the first step is carried", steps[0].carried, true);
  // A step may be too much for the machine; whoever is within the limit is never denied for it.
  criteria.equal("requests that were denied, in any step", steps.reduce((sum, { notAdmitted, errors }) => sum + Math.max(0, notAdmitted - errors), 0), 0);
  if (best === 0) return;
  criteria.allAdmitted("user");
  note(`carried: ${best} concurrent virtual users${beyond.length > 0 ? `; not carried: ${Math.min(...beyond)}` : ", and no step was too much"}`);
}

/** What a process has used, user and system; `undefined` where there is no such file. */
function cpuSeconds(pid) {
  try {
    // After the name, which may have spaces: the 14th and 15th field, in hundredths of a second.
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return undefined;
  }
}

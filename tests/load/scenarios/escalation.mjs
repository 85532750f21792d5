import { GENERAL, SENSITIVE } from "../limits.mjs";

/** Denials that are borne, and how long a block is, in seconds. */
const [BORNE, BLOCK] = [50, 300];

const PERSISTENT = "198.51.100.60";

/** Addresses that are looked at one by one afterwards, of each kind. */
const SAMPLE = 5;

export const proves = `over three limiters on one Redis, callers denied more than ${BORNE} times are blocked in all of them; those denied ${BORNE} times and all others are not`;

export const processes = 3;

/** More of them in a time too short for several batches would be left out of the records, by which escalation counts. */
export const mostVus = 200;

export const vars = { RATE_LIMIT_ESCALATION: `${BORNE},60,${BLOCK}` };

/** Enough for one virtual user to be denied too often. */
export const variables = ({ vus = 150 }) => ({ turns: Math.max(20, Math.ceil(12_000 / vus)) });

export async function judge({ run, criteria, redis, ask, operator, limiters, everywhere }) {
  criteria.atLeast("persistent: requests, more than its limit and what is borne", run.sent("persistent"), GENERAL.limit + BORNE + 1);
  criteria.equal("persistent: admitted, its limit", run.of("persistent", "admitted"), GENERAL.limit);
  criteria.equal("persistent: denied, all others", run.of("persistent", "denied"), run.sent("persistent") - GENERAL.limit);
  const count = {};
  for (const [name, denials] of [["hasty", BORNE + 1], ["impatient", BORNE]]) {
    count[name] = run.sent(name) / (SENSITIVE.limit + denials);
    criteria.atLeast(`${name}: callers`, count[name], 1);
    criteria.equal(`${name}: admitted, the limit of each`, run.of(name, "admitted"), SENSITIVE.limit * count[name]);
    criteria.equal(`${name}: denied, all others`, run.of(name, "denied"), denials * count[name]);
  }
  criteria.allAdmitted("bystander");

  const wanted = count.hasty + 1;
  const blocked = await operator.eventually(() => operator.blocked(), (entries) => entries.length >= wanted);
  const isAttacker = ({ target }) => target === PERSISTENT || target.startsWith("100.");
  criteria.equal("blocked: the persistent one and each hasty one", blocked.filter(isAttacker).length, wanted);
  criteria.equal("blocked: nobody else", blocked.filter((entry) => !isAttacker(entry)), []);
  criteria.equal("by escalation, the first time, for as long as it says", blocked.filter(({ by, since, until }) => by !== "escalation" || until - since !== BLOCK * 1000), []);
  // The next block is twice as long, not as many times as there were limiters, or batches of records, to tell of denials.
  const times = await Promise.all(blocked.map(async ({ target }) => [target, await redis.number(`escalated:${target}`)]));
  criteria.equal("counted as blocked once", times.filter(([, counted]) => counted !== 1), []);
  const hasty = blocked.map(({ target }) => target).filter((target) => target !== PERSISTENT).slice(0, SAMPLE);
  criteria.equal("they are denied everything, by each limiter", await everywhere([PERSISTENT, ...hasty], "blocked"), (hasty.length + 1) * limiters.length);
  const impatient = (await redis.keys("sensitive:10.*")).filter((key) => !key.endsWith(":blocked")).map((key) => key.slice("sensitive:".length)).slice(0, SAMPLE);
  const statuses = await Promise.all(impatient.flatMap((caller) => limiters.map(async (limiter) => (await ask(caller, "/api/products", {}, limiter)).status)));
  criteria.equal("the impatient are admitted elsewhere, by each limiter", statuses.filter((status) => status === 200).length, impatient.length * limiters.length);
}

import { GENERAL, SENSITIVE } from "../limits.mjs";

/** Denials without a consequence, and the length of a block in seconds. */
const [TOLERATED, BLOCK_S] = [50, 300];

const PERSISTENT = "198.51.100.60";

/** How many addresses of each kind are checked one by one afterwards. */
const SAMPLE = 5;

export const proves = `over three limiters on one Redis, callers denied more than ${TOLERATED} times are blocked in all of them, and those denied ${TOLERATED} times and all others are not`;

export const processes = 3;

/** Escalation counts by the event log. Batches of events would leave out some of more callers than this in so short a time. */
export const maxVus = 200;

export const vars = { RATE_LIMIT_ESCALATION: `${TOLERATED},60,${BLOCK_S}` };

/** Enough turns that one virtual user is denied too often. */
export const variables = ({ vus = 150 }) => ({ turns: Math.max(20, Math.ceil(12_000 / vus)) });

export async function judge({ run, criteria, redis, ask, operator, limiters, everywhere }) {
  criteria.atLeast("persistent: requests (expected: more than its limit and the tolerated denials)", run.sent("persistent"), GENERAL.limit + TOLERATED + 1);
  criteria.equal("persistent: admitted (expected: its limit)", run.of("persistent", "admitted"), GENERAL.limit);
  criteria.equal("persistent: denied (expected: all others)", run.of("persistent", "denied"), run.sent("persistent") - GENERAL.limit);
  const count = {};
  for (const [name, denials] of [["hasty", TOLERATED + 1], ["impatient", TOLERATED]]) {
    count[name] = run.sent(name) / (SENSITIVE.limit + denials);
    criteria.atLeast(`${name}: callers`, count[name], 1);
    criteria.equal(`${name}: admitted (expected: the limit of each)`, run.of(name, "admitted"), SENSITIVE.limit * count[name]);
    criteria.equal(`${name}: denied (expected: all others)`, run.of(name, "denied"), denials * count[name]);
  }
  criteria.allAdmitted("bystander");

  const wanted = count.hasty + 1;
  const blocked = await operator.eventually(() => operator.blocked(), (entries) => entries.length >= wanted);
  const isAttacker = ({ target }) => target === PERSISTENT || target.startsWith("100.");
  criteria.equal("blocks of the persistent and the hasty callers (expected: all of these)", blocked.filter(isAttacker).length, wanted);
  criteria.equal("blocks of other callers", blocked.filter((entry) => !isAttacker(entry)), []);
  criteria.equal("blocks that are not by escalation or do not last as long as configured", blocked.filter(({ by, since, until }) => by !== "escalation" || until - since !== BLOCK_S * 1000), []);
  // Each caller's escalation counts once, however many limiters or batches of events reported denials. So its next block is twice as long.
  const times = await Promise.all(blocked.map(async ({ target }) => [target, await redis.number(`escalated:${target}`)]));
  criteria.equal("callers whose block was not counted exactly once", times.filter(([, counted]) => counted !== 1), []);
  const hasty = blocked.map(({ target }) => target).filter((target) => target !== PERSISTENT).slice(0, SAMPLE);
  criteria.equal("pairs of a blocked caller and a limiter that denies it everything", await everywhere([PERSISTENT, ...hasty], "blocked"), (hasty.length + 1) * limiters.length);
  const impatient = (await redis.keys("sensitive:10.*")).filter((key) => !key.endsWith(":blocked")).map((key) => key.slice("sensitive:".length)).slice(0, SAMPLE);
  const statuses = await Promise.all(impatient.flatMap((caller) => limiters.map(async (limiter) => (await ask(caller, "/api/products", {}, limiter)).status)));
  criteria.equal("requests of impatient callers under another policy that were admitted, over all limiters", statuses.filter((status) => status === 200).length, impatient.length * limiters.length);
}

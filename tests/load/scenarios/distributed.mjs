import { GENERAL } from "../limits.mjs";

export const proves = "over four limiters on one Redis a caller gets its 120 in all; thousands of others are all admitted";

/** workerd processes; each virtual user asks one of them. */
export const processes = 4;

/** Enough for one virtual user to reach the limit, however few there are. */
export const variables = ({ vus = 4000 }) => ({ turns: Math.max(3, Math.ceil(7000 / vus)) });

export async function judge({ run, criteria, redis, limiters }) {
  criteria.allAdmitted("caller");
  criteria.equal("each caller has a quota of its own", (await redis.callers("general")) - 1, run.of("caller", "admitted"));
  await criteria.heldTo("roaming", GENERAL, { blocked: false, key: "general:198.51.100.80" });
  for (const { port } of limiters) criteria.atLeast(`the limiter on port ${port} admitted the roaming caller as well`, run.of(`roaming@${port}`, "admitted"), 1);
}

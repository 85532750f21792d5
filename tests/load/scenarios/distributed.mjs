import { GENERAL } from "../limits.mjs";

export const proves = "a caller gets exactly 120 requests over four limiters on one Redis, and thousands of other callers are all admitted";

/** The number of workerd processes. Each virtual user asks one of them. */
export const processes = 4;

/** Enough turns that one virtual user reaches the limit, even if there are few of them. */
export const variables = ({ vus = 4000 }) => ({ turns: Math.max(3, Math.ceil(7000 / vus)) });

export async function judge({ run, criteria, redis, limiters }) {
  criteria.allAdmitted("caller");
  criteria.equal("quotas in Redis (expected: one for each caller)", (await redis.callers("general")) - 1, run.of("caller", "admitted"));
  await criteria.heldTo("roaming", GENERAL, { blocked: false, key: "general:198.51.100.80" });
  for (const { port } of limiters) criteria.atLeast(`requests of the roaming caller that the limiter on port ${port} admitted`, run.of(`roaming@${port}`, "admitted"), 1);
}

import { GENERAL } from "../limits.mjs";

export const proves = "callers within the limit are all admitted, whatever the method, and a caller that does not stop gets exactly 120 requests a minute";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("caller");
  await criteria.heldTo("hot", GENERAL, { blocked: false, key: "general:198.51.100.7" });
  criteria.equal("units that Redis counts for general (expected: the admissions)", await redis.total("general"), run.all("admitted"));
  criteria.equal("units that Redis counts for ip (expected: the admissions)", await redis.total("ip"), run.all("admitted"));
}

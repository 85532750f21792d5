import { FINANCIAL } from "../limits.mjs";

export const proves = "customers all pay, and an address that tries cards gets exactly 20 requests over both routes and then a block of 15 minutes";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("browsing");
  criteria.allAdmitted("customer");
  await criteria.heldTo("card-tester", FINANCIAL, { blocked: true, key: "financial:198.51.100.40" });
  criteria.equal("units that Redis counts (expected: the admissions)", await redis.total("financial"), run.of("customer", "admitted") + run.of("card-tester", "admitted"));
}

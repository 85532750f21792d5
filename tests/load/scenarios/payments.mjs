import { FINANCIAL } from "../limits.mjs";

export const proves = "customers all pay; who tries cards gets exactly 20 over both routes, then a block of 15 minutes";

export async function judge({ run, must, redis }) {
  must.allBeAdmitted("browsing");
  must.allBeAdmitted("customer");
  await must.beHeldTo("card-tester", FINANCIAL, { blocked: true, key: "financial:198.51.100.40" });
  must.be("Redis has counted what was admitted", await redis.total("financial"), run.of("customer", "admitted") + run.of("card-tester", "admitted"));
}

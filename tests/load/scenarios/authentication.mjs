import { AUTH } from "../limits.mjs";

export const proves = "users within the limit all log in, and an address that guesses passwords gets exactly 30 attempts and then a block";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("user");
  await criteria.heldTo("brute-forcer", AUTH, { blocked: true, key: "auth:198.51.100.66" });
  criteria.equal("units that Redis counts (expected: the admissions)", await redis.total("auth"), run.all("admitted"));
}

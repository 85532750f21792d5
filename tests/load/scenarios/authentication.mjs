import { AUTH } from "../limits.mjs";

export const proves = "users within the limit all log in; a brute-forcer gets exactly its 30 attempts, then a block";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("user");
  await criteria.heldTo("brute-forcer", AUTH, { blocked: true, key: "auth:198.51.100.66" });
  criteria.equal("Redis has counted what was admitted", await redis.total("auth"), run.all("admitted"));
}

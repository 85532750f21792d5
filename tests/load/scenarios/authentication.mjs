import { AUTH } from "../limits.mjs";

export const proves = "users within the limit all log in; a brute-forcer gets exactly its 30 attempts, then a block";

export async function judge({ run, must, redis }) {
  must.allBeAdmitted("user");
  await must.beHeldTo("brute-forcer", AUTH, { blocked: true, key: "auth:198.51.100.66" });
  must.be("Redis has counted what was admitted", await redis.total("auth"), run.all("admitted"));
}

import { GENERAL } from "../limits.mjs";

export const proves = "callers within the limit are all admitted, whatever the method; a hot one gets exactly its 120 a minute";

export async function judge({ run, must, redis }) {
  must.allBeAdmitted("caller");
  await must.beHeldTo("hot", GENERAL, { blocked: false, key: "general:198.51.100.7" });
  must.be("Redis has counted what was admitted", await redis.total("general"), run.all("admitted"));
  must.be("and the same for every address as a whole", await redis.total("ip"), run.all("admitted"));
}

import { GENERAL } from "../limits.mjs";

export const proves = "callers within the limit are all admitted, whatever the method; a hot one gets exactly its 120 a minute";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("caller");
  await criteria.heldTo("hot", GENERAL, { blocked: false, key: "general:198.51.100.7" });
  criteria.equal("Redis has counted what was admitted", await redis.total("general"), run.all("admitted"));
  criteria.equal("and the same for every address as a whole", await redis.total("ip"), run.all("admitted"));
}

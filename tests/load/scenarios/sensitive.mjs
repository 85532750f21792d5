import { GENERAL, SENSITIVE } from "../limits.mjs";

export const proves = "a caller gets 10 changes a minute and then a block of changes only, and a request that one policy denies is not charged to the other";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("user");
  criteria.allAdmitted("reader");
  await criteria.heldTo("changer", SENSITIVE, { blocked: true, key: "sensitive:198.51.100.50" });
  criteria.equal("reads of the changer that were admitted", run.of("changer-reading", "admitted"), Math.min(GENERAL.limit, run.sent("changer-reading")));
  await criteria.heldTo("resetter", SENSITIVE, { blocked: true, key: "sensitive:198.51.100.51" });
  criteria.equal("units of auth that Redis counts for the resetter, without those that sensitive denied", await redis.consumed("auth:198.51.100.51"), SENSITIVE.limit);
}

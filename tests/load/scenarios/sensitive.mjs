import { GENERAL, SENSITIVE } from "../limits.mjs";

export const proves = "10 changes a minute, then a block of changes alone; of two policies, what one denies the other is not charged";

export async function judge({ run, criteria, redis }) {
  criteria.allAdmitted("user");
  criteria.allAdmitted("reader");
  await criteria.heldTo("changer", SENSITIVE, { blocked: true, key: "sensitive:198.51.100.50" });
  criteria.equal("the changer still reads, as others may", run.of("changer-reading", "admitted"), Math.min(GENERAL.limit, run.sent("changer-reading")));
  await criteria.heldTo("resetter", SENSITIVE, { blocked: true, key: "sensitive:198.51.100.51" });
  criteria.equal("what sensitive denied the resetter, auth was not charged", await redis.consumed("auth:198.51.100.51"), SENSITIVE.limit);
}

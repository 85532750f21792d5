import { GENERAL, SENSITIVE } from "../limits.mjs";

export const proves = "10 changes a minute, then a block of changes alone; of two policies, what one denies the other is not charged";

export async function judge({ run, must, redis }) {
  must.allBeAdmitted("user");
  must.allBeAdmitted("reader");
  await must.beHeldTo("changer", SENSITIVE, { blocked: true, key: "sensitive:198.51.100.50" });
  must.be("the changer still reads, as others may", run.of("changer-reading", "admitted"), Math.min(GENERAL.limit, run.sent("changer-reading")));
  await must.beHeldTo("resetter", SENSITIVE, { blocked: true, key: "sensitive:198.51.100.51" });
  must.be("what sensitive denied the resetter, auth was not charged", await redis.consumed("auth:198.51.100.51"), SENSITIVE.limit);
}

import { FINANCIAL } from "../limits.mjs";

export const proves = "no spelling of a protected path evades its policy: a caller gets exactly 20 requests over all spellings and then a block";

export async function judge({ criteria }) {
  await criteria.heldTo("speller", FINANCIAL, { blocked: true, key: "financial:198.51.100.20" });
}

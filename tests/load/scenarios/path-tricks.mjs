import { FINANCIAL } from "../limits.mjs";

export const proves = "no spelling of a protected path escapes its policy: 20 over all of them, then a block";

export async function judge({ criteria }) {
  await criteria.heldTo("speller", FINANCIAL, { blocked: true, key: "financial:198.51.100.20" });
}

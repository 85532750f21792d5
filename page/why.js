/** Why an event happened, in a sentence. */
import { duration, entryOf, limitOf } from "./format.js";

/** What an event's `policy` is where the address itself is blocked (src/events/records.rs). */
const BLOCKED = "blocked";

const KEYS = {
  ip: "each address",
  user: "each proven user, or address",
  network: "each network",
  global: "all callers together",
};

/** Whose quota a policy counts. */
export const keyOf = (policy) => entryOf(KEYS, policy.key) ?? `each value of ${policy.key.replace("header:", "")}`;

/**
 * @param {{kind: string, policy: string, status: number}} event
 * @param {{name: string}[]} policies those in force now
 */
export function why({ kind, policy: name, status }, policies) {
  const policy = policies.find((known) => known.name === name);
  switch (kind) {
    case "denied":
      if (name === BLOCKED) return "Its address is blocked everywhere, by an operator or by escalation.";
      if (!policy) return name === "" ? "No quota is named." : `Over the quota of ${name}, which is not configured any more.`;
      return `Over the quota of ${name}: ${limitOf(policy)} for ${keyOf(policy)}${policy.block_seconds ? `, then blocked for ${duration(1000 * policy.block_seconds)}` : ""}.`;
    case "escalated":
      return "Denied too often (RATE_LIMIT_ESCALATION): the address is blocked everywhere.";
    case "refused":
      return "A wrong token came to the control plane.";
    case "reported":
      return "The application reported it.";
    case "bypassed":
      return "It came with the bypass token: no quota was asked.";
    case "admitted":
      return policy ? `Within ${name}: ${limitOf(policy)}. Recorded as a sample${status ? `, answered ${status}` : ""}.` : "Admitted. Recorded as a sample.";
    default:
      return "";
  }
}

/** Explains an event in a sentence. */
import { duration, entryOf, limitOf } from "./format.js";

/** An event's `policy` if the address is blocked everywhere (src/events/records.rs). */
const BLOCKED = "blocked";

const KEYS = {
  ip: "each address",
  user: "each proven user, or address",
  network: "each network",
  global: "all callers together",
};

/** Who has a quota of their own in a policy. */
export const keyOf = (policy) => entryOf(KEYS, policy.key) ?? `each value of ${policy.key.replace("header:", "")}`;

/**
 * @param {{kind: string, policy: string, status: number}} event
 * @param {{name: string}[]} policies those in force now
 */
export function why({ kind, policy: name, status }, policies) {
  const policy = policies.find((known) => known.name === name);
  switch (kind) {
    case "denied":
      if (name === BLOCKED) return "The address is blocked everywhere, by an operator or by escalation.";
      if (!policy) return name === "" ? "The record names no quota." : `Over the quota of ${name}, which is not configured any more.`;
      return `Over the quota of ${name}: ${limitOf(policy)} for ${keyOf(policy)}${policy.block_seconds ? `, then blocked for ${duration(1000 * policy.block_seconds)}` : ""}.`;
    case "escalated":
      return "Denied too often (RATE_LIMIT_ESCALATION): the address is blocked everywhere.";
    case "refused":
      return "A call of the control plane had a wrong token.";
    case "reported":
      return "The application reported it.";
    case "bypassed":
      return "The request had the bypass token, so no quota was checked.";
    case "admitted":
      return policy ? `Within the quota of ${name}: ${limitOf(policy)}. Recorded as a sample${status ? `, answered ${status}` : ""}.` : "Admitted. Recorded as a sample.";
    default:
      return "";
  }
}

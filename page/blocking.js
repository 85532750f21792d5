/** The dialogs by which an operator blocks a caller, lifts a block or resets a quota, and the calls behind them. */
import { call, part } from "./api.js";
import { dialog, field, h, select } from "./dom.js";
import { duration } from "./format.js";

const LENGTHS = [600, 3600, 21_600, 86_400, 604_800, 2_592_000];
const CUSTOM = "custom";
const UNTIL_LIFTED = "";

/** The longest block and the longest reason that the limiter accepts (src/admin/blocked.rs). */
const MAX_SECONDS = 31_622_400;
const MAX_REASON_CHARS = 200;

/**
 * Asks how long to block a target, and why.
 *
 * @param {{target?: string, reason?: string, extends?: boolean, done: (text: string) => void}} options without `target` the
 *   dialog asks for it
 */
export function askToBlock({ target, reason = "", extends: isExtension = false, done }) {
  const targetInput = h("input", { type: "text", required: true, autocomplete: "off", spellcheck: "false", value: target ?? "" });
  const custom = h("input", { type: "number", min: "1", max: String(MAX_SECONDS), value: "900" });
  const customField = field("Seconds", custom);
  customField.hidden = true;
  const length = select(
    [...LENGTHS.map((seconds) => [String(seconds), duration(1000 * seconds)]), [CUSTOM, "another time…"], [UNTIL_LIFTED, "until lifted"]],
    "3600", (value) => (customField.hidden = value !== CUSTOM),
  );
  const why = h("input", { type: "text", maxlength: String(MAX_REASON_CHARS), autocomplete: "off", value: reason });
  return dialog(isExtension ? `Extend the block of ${target}` : target ? `Block ${target}` : "Block an address or a range", {
    body: [
      !target && field("Address or range", targetInput, "such as 192.0.2.1, 2001:db8::1 or 203.0.113.0/24"),
      field(isExtension ? "From now for" : "For", length), customField, field("Reason", why),
    ],
    action: isExtension ? "Extend" : "Block",
    danger: true,
    async submit() {
      const seconds = length.value === CUSTOM ? Number(custom.value) : Number(length.value);
      const json = { ...(length.value === UNTIL_LIFTED ? {} : { seconds }), ...(why.value === "" ? {} : { reason: why.value }) };
      const { target: blocked } = await call(`blocked/${part(target ?? targetInput.value.trim())}`, { method: "PUT", json });
      done(`${blocked} is blocked ${length.value === UNTIL_LIFTED ? "until lifted" : `for ${duration(1000 * seconds)}`}.`);
    },
  });
}

/** Asks for confirmation, then lifts a block. */
export function askToLift(target, done) {
  return dialog(`Lift the block of ${target}?`, {
    body: h("p", {}, "For an address, the policies' own blocks end as well, and its quotas in them start afresh."),
    action: "Lift",
    async submit() {
      const { lifted, policies_lifted: policies } = await call(`blocked/${part(target)}`, { method: "DELETE" });
      const own = policies > 0 ? ` ${policies} ${policies === 1 ? "policy's block was" : "policies' blocks were"} lifted.` : "";
      done(lifted ? `The block of ${target} is lifted.${own}` : own === "" ? `${target} was not blocked any more.` : own.trim());
    },
  });
}

/** Asks for confirmation, then gives a caller its whole quota back in a policy. */
export function askToReset(policy, caller, isShared, done) {
  return dialog(`Reset ${caller} in ${policy}?`, {
    body: h("p", {}, isShared ? "Several callers share this quota: all of them start afresh." : "The caller gets a full quota again, and the policy's own block of it ends."),
    action: "Reset",
    async submit() {
      await call(`usage/${part(policy)}/${part(caller)}`, { method: "DELETE" });
      done(`${caller} starts afresh in ${policy}.`);
    },
  });
}

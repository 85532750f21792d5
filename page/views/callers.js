/** The view of callers: a list of those denied most, or one caller with its block, its quotas and its events. */
import { call, part } from "../api.js";
import { askToBlock, askToLift, askToReset } from "../blocking.js";
import { choice, empty, field, h, loading, panel, swap, table } from "../dom.js";
import { count, iso, limitOf, remaining, time } from "../format.js";
import { go, here, link, replace } from "../place.js";
import { keyOf } from "../why.js";
import { eventTable } from "./events.js";

const NEWEST_EVENTS = 500;
const HOURS = [["1", "1 h"], ["6", "6 h"], ["24", "24 h"]];

/** Whether a caller is an address or a range of addresses. Only these can be blocked everywhere. */
const isAddress = (caller) => /^[0-9.]+(\/\d+)?$/.test(caller) || /^[0-9a-f:.]*:[0-9a-f:.]*(\/\d+)?$/i.test(caller);

export const callers = {
  name: "callers",
  title: "Callers",
  everyMs: 15_000,
  mount(root, app) {
    const name = h("input", { type: "search", autocomplete: "off", spellcheck: "false", size: "28", required: true });
    const form = h("form", { class: "row", onsubmit: (event) => {
      event.preventDefault();
      go("callers", name.value.trim());
    } }, field("Caller", name), h("button", { type: "submit" }, "Look up"));
    const hint = h("p", { class: "hint", id: "caller-hint" }, "An address, user:NAME, id:NAME, zone:NAME, or a key as lists show it.");
    name.setAttribute("aria-describedby", hint.id);
    const body = h("div", { class: "stack" }, loading());
    root.append(h("div", { class: "controls" }, form, hint), body);
    let about;
    let hours;
    let draw;

    const read = () => {
      const { about: caller, parameters } = here();
      const chosen = new Map(parameters).get("hours");
      hours = HOURS.some(([value]) => value === chosen) ? chosen : "1";
      if (caller !== about) {
        about = caller;
        draw = undefined;
        swap(body, loading());
      }
      if (document.activeElement !== name) name.value = about;
    };
    read();
    return {
      async load(isCurrent) {
        const loaded = about === "" ? await loadList(hours, app) : await loadOne(about, app);
        if (!isCurrent()) return;
        draw = () => swap(body, loaded());
        draw();
      },
      update() {
        read();
        return true;
      },
      redraw: () => draw?.(),
    };
  },
};

async function loadList(hours, app) {
  const { scope, callers: list } = await call(`suspicious?hours=${hours}&limit=200`);
  app.isShared(scope === "shared");
  const columns = [{ title: "Caller" }, { title: "Denied", number: true }, { title: "By policy" }];
  return () => {
    const rows = list.map(({ caller, denied, policies }) => [
      h("a", { href: link("callers", caller), "data-key": caller }, caller), count(denied),
      Object.entries(policies).map(([policy, times]) => `${policy} ${count(times)}`).join(", "),
    ]);
    return panel("Denied most, by their own quotas", rows.length > 0 ? table("Callers denied most", columns, rows) : empty("Nobody was denied in this time."), {
      aside: choice("Time", HOURS, hours, (value) => replace("callers", "", [["hours", value]])),
    });
  };
}

async function loadOne(caller, app) {
  const policies = app.policies();
  const [usages, block, { events, scope }] = await Promise.all([
    Promise.all(policies.filter(({ isPreflight }) => !isPreflight).map((policy) => usageIn(policy, caller))),
    isAddress(caller) ? call(`blocked/${part(caller)}`) : undefined,
    call(`events?limit=${NEWEST_EVENTS}`),
  ]);
  app.isShared(scope === "shared");
  const names = new Set([caller, block?.target, ...usages.filter(({ usage, policy }) => usage && !isShared(policy, usage)).map(({ usage }) => usage.caller)]);
  const own = events.filter((event) => names.has(event.caller) || names.has(event.address));
  return () => [blockPanel(caller, block, app), quotasPanel(caller, usages, app), panel(
    "Events of this caller",
    own.length > 0 ? eventTable(own, policies) : empty("None of the newest records is of this caller."),
    {
      note: `${count(own.length)} of the newest ${count(events.length)} records`,
      aside: h("a", { href: link("events", "", [["caller", [...names].find((name) => own.some((event) => event.caller === name)) ?? caller]]) }, "Show in the list of events"),
    },
  )];
}

/** What a caller has used of a policy. `failure`: why the limiter does not report it. */
async function usageIn(policy, caller) {
  try {
    return { policy, usage: await call(`usage/${part(policy.name)}/${part(caller)}`) };
  } catch (failure) {
    if (!["refused", "absent"].includes(failure.kind)) throw failure;
    return { policy, failure };
  }
}

/** Whether several callers share the quota, by the key that is charged. */
const isShared = (policy, usage) => policy.key === "global" || policy.key === "network" || usage.caller === "global" || usage.caller.startsWith("network-");

function blockPanel(caller, block, app) {
  if (!block) {
    return panel("Block", h("p", { class: "hint" }, "Only addresses and ranges can be blocked everywhere. To end a policy's own block, reset the caller in that policy."));
  }
  const done = (text) => app.done(text);
  const buttons = block.blocked
    ? [
        !block.covered_by && h("button", { type: "button", "data-key": "extend", onclick: () => askToBlock({ target: caller, reason: block.reason ?? "", extends: true, done }) }, "Extend…"),
        h("button", { type: "button", "data-key": "lift", onclick: () => askToLift(block.covered_by ?? block.target, done) }, block.covered_by ? `Unblock ${block.covered_by}…` : "Unblock…"),
      ]
    : [
        h("button", { type: "button", class: "danger", "data-key": "block", onclick: () => askToBlock({ target: caller, done }) }, "Block…"),
        h("button", { type: "button", "data-key": "lift", onclick: () => askToLift(block.target, done) }, "Lift policies' blocks…"),
      ];
  const facts = block.blocked
    ? [
        fact("State", h("strong", { class: "state bad" }, "Blocked")),
        fact("Left", remaining(block.until)),
        block.until !== null && fact("Ends", time(block.until)),
        block.since !== null && fact("Since", time(block.since)),
        block.by && fact("By", block.by),
        block.covered_by && fact("By the range", block.covered_by),
        fact("Reason", block.reason ?? "none given"),
      ]
    : [fact("State", h("strong", { class: "state good" }, "Not blocked")), fact("Target", block.target)];
  return panel(caller, h("dl", { class: "facts" }, facts), { aside: h("div", { class: "row" }, buttons) });
}

function quotasPanel(caller, usages, app) {
  const columns = [
    { title: "Policy" }, { title: "Limit" }, { title: "Used", number: true }, { title: "Left", number: true }, { title: "Share" },
    { title: "Full again" }, { title: "State" }, { title: "Reset", hidden: true },
  ];
  const rows = usages.map(({ policy, usage, failure }) => {
    const name = h("a", { href: link("policies"), "data-key": `policy ${policy.name}` }, policy.name);
    if (failure) return [name, limitOf(policy), "", "", h("span", { class: "hint" }, failure.message), "", "", ""];
    const shared = isShared(policy, usage);
    const share = usage.limit > 0 ? usage.used / usage.limit : 0;
    const isBlocked = usage.blocked_until !== null;
    const state = isBlocked ? `blocked, ${remaining(usage.blocked_until)} left` : usage.retry_at !== null ? `denied, ${remaining(usage.retry_at)} left` : policy.mode === "shadow" ? "shadow" : "admitted";
    return [
      [name, (shared || policy.key !== "ip") && h("span", { class: "hint" }, shared ? `shared: ${usage.caller}` : keyOf(policy))], limitOf({ ...policy, limit: policy.burst ? policy.limit : usage.limit }),
      count(usage.used), count(usage.remaining),
      meter(share, `${policy.name}: used ${count(usage.used)} of ${count(usage.limit)}`),
      usage.used > 0 ? h("time", { datetime: iso(usage.reset) }, time(usage.reset)) : "",
      h("span", { class: isBlocked ? "state bad" : usage.retry_at !== null ? "state warn" : "state" }, state),
      h("button", { type: "button", "data-key": `reset ${policy.name}`, "aria-label": `Reset in ${policy.name}`, onclick: () => askToReset(policy.name, caller, shared, (text) => app.done(text)) }, "Reset…"),
    ];
  });
  return panel("Quotas of this caller", table("Use of each policy", columns, rows));
}

export const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));

/** A share as a bar; `text` says it to who does not see it. */
export function meter(share, text) {
  const full = Math.min(1, Math.max(0, share));
  return h("span", { class: full >= 1 ? "meter full" : "meter", role: "img", "aria-label": text }, h("span", { style: { "inline-size": `${100 * full}%` } }));
}

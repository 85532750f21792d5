/** The view of blocks: addresses and ranges that are blocked everywhere, policies' own blocks, and the operator log. */
import { call, callIfPresent } from "../api.js";
import { askToBlock, askToLift, askToReset } from "../blocking.js";
import { empty, h, loading, panel, swap, table } from "../dom.js";
import { count, entryOf, iso, remaining, time } from "../format.js";
import { link } from "../place.js";

const BLOCKS_PER_PAGE = 50;
/** The operator log keeps at most this many entries, and has no cursor. */
const MAX_OPERATIONS = 1000;
/** How many entries of it are shown at first. */
const NEWEST_OPERATIONS = 50;

export const blocks = {
  name: "blocks",
  title: "Blocks",
  everyMs: 15_000,
  mount(root, app) {
    const lists = h("div", { class: "stack" }, loading());
    const log = h("div", { class: "stack" });
    root.append(lists, log);
    /** The cursors of the pages up to the current one. The first page's cursor is `null`. */
    let cursors = [null];
    let showsWholeLog = false;
    let shown;

    const turnTo = (to) => {
      cursors = to;
      return app.reload();
    };
    const showWholeLog = () => {
      showsWholeLog = true;
      draw();
    };
    const draw = () => {
      if (!shown) return;
      const { blocked, operations } = shown;
      swap(lists, blockedPanel(blocked, cursors, turnTo, app), cursors.length === 1 && policiesPanel(blocked.policies, app));
      swap(log, operationsPanel(operations, showsWholeLog, showWholeLog));
    };
    return {
      async load(isCurrent) {
        const [blocked, operations] = await Promise.all([
          call(`blocked?limit=${BLOCKS_PER_PAGE}${cursorParameter(cursors)}`), callIfPresent(`operations?limit=${MAX_OPERATIONS}`),
        ]);
        if (!isCurrent()) return;
        shown = { blocked, operations };
        app.isShared(blocked.scope === "shared");
        draw();
      },
      redraw: draw,
    };
  },
};

const cursorParameter = (cursors) => (cursors.at(-1) === null ? "" : `&cursor=${encodeURIComponent(cursors.at(-1))}`);

/** Buttons to the previous and next page, or `null` if there is only one page. */
function paging(cursors, next, turnTo) {
  if (cursors.length === 1 && next === null) return null;
  return h("div", { class: "row paging" },
    h("button", { type: "button", "data-key": "previous page", disabled: cursors.length === 1, onclick: () => turnTo(cursors.slice(0, -1)) }, "Previous page"),
    h("span", { class: "hint" }, `page ${cursors.length}`),
    h("button", { type: "button", "data-key": "next page", disabled: next === null, onclick: () => turnTo([...cursors, next]) }, "Next page"));
}

function blockedPanel({ blocked, cursor }, cursors, turnTo, app) {
  const done = (text) => app.done(text);
  const columns = [
    { title: "Address or range" }, { title: "Left" }, { title: "Ends" }, { title: "Since" }, { title: "By" }, { title: "Reason" }, { title: "Actions", hidden: true },
  ];
  const rows = blocked.map(({ target, until, since, by, reason }) => [
    h("a", { href: link("callers", target), "data-key": `open ${target}` }, target),
    h("span", { class: "short" }, remaining(until)), until === null ? "" : h("time", { datetime: iso(until) }, time(until)), h("time", { datetime: iso(since) }, time(since)),
    by, h("span", { class: "why" }, reason ?? ""),
    h("div", { class: "row" },
      h("button", { type: "button", "data-key": `extend ${target}`, "aria-label": `Extend the block of ${target}`, onclick: () => askToBlock({ target, reason: reason ?? "", extends: true, done }) }, "Extend…"),
      h("button", { type: "button", "data-key": `lift ${target}`, "aria-label": `Lift the block of ${target}`, onclick: () => askToLift(target, done) }, "Lift…")),
  ]);
  const body = rows.length > 0 ? table("Blocked addresses and ranges", columns, rows) : empty("Nobody is blocked everywhere.");
  return panel("Addresses and ranges", [body, paging(cursors, cursor, turnTo)], {
    aside: h("button", { type: "button", class: "primary", "data-key": "add", onclick: () => askToBlock({ done }) }, "Block an address or a range…"),
  });
}

function policiesPanel(policies, app) {
  const columns = [{ title: "Policy" }, { title: "Caller" }, { title: "Left" }, { title: "Ends" }, { title: "Actions", hidden: true }];
  const rows = policies.map(({ policy, caller, until }) => [
    policy, h("a", { href: link("callers", caller), "data-key": `open ${policy} ${caller}` }, caller), h("span", { class: "short" }, remaining(until)), h("time", { datetime: iso(until) }, time(until)),
    h("button", { type: "button", "data-key": `reset ${policy} ${caller}`, "aria-label": `Lift the block of ${caller} in ${policy}`, onclick: () => askToReset(policy, caller, false, (text) => app.done(text)) }, "Lift…"),
  ]);
  return panel("Policies' own blocks", rows.length > 0 ? table("Policies' own blocks", columns, rows) : empty("No recorded event is of a policy's block that is still in force."), {
    note: "A policy blocks a caller that exceeds it. The block counts only for requests that meet this policy.",
  });
}

const ACTIONS = { block: "blocked", lift: "lifted", reset: "reset", forget_events: "deleted events" };

/** The tone and text for operations that were not done everywhere. */
const OUTCOMES = {
  failed: ["bad", "failed: Redis did not confirm it"],
  isolate: ["warn", "in force in one isolate only"],
};

function outcomeOf(outcome = "done") {
  if (outcome === "done") return null;
  const [tone, text] = entryOf(OUTCOMES, outcome) ?? ["warn", outcome];
  return h("div", { class: `state ${tone}` }, text);
}

function operationsPanel(found, showsAll, showAll) {
  const title = "Operator log";
  if (found === undefined) return panel(title, empty("This version of the limiter keeps no log of operators' actions."));
  const { operations } = found;
  const columns = [{ title: "When" }, { title: "Who" }, { title: "From" }, { title: "Did" }, { title: "To" }, { title: "Details" }];
  const rows = operations.slice(0, showsAll ? MAX_OPERATIONS : NEWEST_OPERATIONS).map(({ at: when, who, address, action, target, details, outcome }) => [
    h("time", { datetime: iso(when) }, time(when)), who, address, [entryOf(ACTIONS, action) ?? action, outcomeOf(outcome)], target, h("span", { class: "why" }, details),
  ]);
  const body = rows.length > 0 ? table("What operators did", columns, rows) : empty("The log has no action of an operator.");
  const more = operations.length > rows.length && h("div", { class: "row paging" },
    h("button", { type: "button", "data-key": "whole log", onclick: showAll }, `Show all ${count(operations.length)}`),
    h("span", { class: "hint" }, `the newest ${count(rows.length)} are shown`));
  return panel(title, [body, more], { note: "Who did what, and from which address: operators, by their token, or the application itself." });
}

/** Blocks: addresses and ranges, and policies' own; and what operators did. */
import { call, callIfThere } from "../api.js";
import { askToBlock, askToLift, askToReset } from "../blocking.js";
import { empty, h, loading, panel, swap, table } from "../dom.js";
import { count, entryOf, iso, remaining, time } from "../format.js";
import { link } from "../place.js";

const PAGE = 50;
/** The operator log has no more, and no cursor. Some are shown until all are asked for. */
const MAX_OPERATIONS = 1000;
const NEWEST_OPERATIONS = 50;

export const blocks = {
  name: "blocks",
  title: "Blocks",
  everyMs: 15_000,
  mount(root, app) {
    const lists = h("div", { class: "stack" }, loading());
    const log = h("div", { class: "stack" });
    root.append(lists, log);
    /** Cursors of the pages before, and of this one; the first has none. */
    let pages = [null];
    let showsWholeLog = false;
    let shown;

    const turn = (to) => {
      pages = to;
      return app.reload();
    };
    const showWholeLog = () => {
      showsWholeLog = true;
      draw();
    };
    const draw = () => {
      if (!shown) return;
      const { blocked, operations } = shown;
      swap(lists, blockedPanel(blocked, pages, turn, app), pages.length === 1 && policiesPanel(blocked.policies, app));
      swap(log, operationsPanel(operations, showsWholeLog, showWholeLog));
    };
    return {
      async load(isCurrent) {
        const [blocked, operations] = await Promise.all([
          call(`blocked?limit=${PAGE}${at(pages)}`), callIfThere(`operations?limit=${MAX_OPERATIONS}`),
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

const at = (pages) => (pages.at(-1) === null ? "" : `&cursor=${encodeURIComponent(pages.at(-1))}`);

/** Buttons to the pages before and after, where there are any. */
function paging(pages, next, turn) {
  if (pages.length === 1 && next === null) return null;
  return h("div", { class: "row paging" },
    h("button", { type: "button", "data-key": "page before", disabled: pages.length === 1, onclick: () => turn(pages.slice(0, -1)) }, "Page before"),
    h("span", { class: "hint" }, `page ${pages.length}`),
    h("button", { type: "button", "data-key": "page after", disabled: next === null, onclick: () => turn([...pages, next]) }, "Next page"));
}

function blockedPanel({ blocked, cursor }, pages, turn, app) {
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
  return panel("Addresses and ranges", [body, paging(pages, cursor, turn)], {
    aside: h("button", { type: "button", class: "primary", "data-key": "add", onclick: () => askToBlock({ done }) }, "Block an address or a range…"),
  });
}

function policiesPanel(policies, app) {
  const columns = [{ title: "Policy" }, { title: "Caller" }, { title: "Left" }, { title: "Ends" }, { title: "Actions", hidden: true }];
  const rows = policies.map(({ policy, caller, until }) => [
    policy, h("a", { href: link("callers", caller), "data-key": `open ${policy} ${caller}` }, caller), h("span", { class: "short" }, remaining(until)), h("time", { datetime: iso(until) }, time(until)),
    h("button", { type: "button", "data-key": `reset ${policy} ${caller}`, "aria-label": `Lift the block of ${caller} in ${policy}`, onclick: () => askToReset(policy, caller, false, (text) => app.done(text)) }, "Lift…"),
  ]);
  return panel("Policies' own blocks", rows.length > 0 ? table("Policies' own blocks", columns, rows) : empty("No event reports a policy's block that is in force."), {
    note: "A policy blocks who exceeds it, for its own requests alone.",
  });
}

const ACTIONS = { block: "blocked", lift: "lifted", reset: "reset", forget_events: "deleted events" };

/** What is shown of an operation that is not done, and how. */
const OUTCOMES = {
  failed: ["bad", "failed: nothing is known to have been done"],
  isolate: ["warn", "in force in one isolate alone"],
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
  const body = rows.length > 0 ? table("What operators did", columns, rows) : empty("No operator has done anything that is still recorded.");
  const more = operations.length > rows.length && h("div", { class: "row paging" },
    h("button", { type: "button", "data-key": "whole log", onclick: showAll }, `Show all ${count(operations.length)}`),
    h("span", { class: "hint" }, `the newest ${count(rows.length)} are shown`));
  return panel(title, [body, more], { note: "Who did what, from which address: an operator by token, or the application itself." });
}

/** The view of policies: those in force, what shadow policies would have denied, and what a lower limit would have denied. */
import { call, callIfPresent } from "../api.js";
import { choice, empty, field, h, loading, panel, select, swap, table } from "../dom.js";
import { count, duration, percent } from "../format.js";
import { here, replace } from "../place.js";
import { WINDOWS, add, usageOf, windows } from "../series.js";
import { keyOf } from "../why.js";
import { meter } from "./callers.js";

export const policies = {
  name: "policies",
  title: "Policies",
  everyMs: 60_000,
  mount(root, app) {
    const body = h("div", { class: "stack" }, loading());
    root.append(body);
    let shown;
    let state = {};

    const set = (name, value) => replace("policies", "", [...new Map(here().parameters).set(name, value)]);
    const read = () => {
      const parameters = new Map(here().parameters);
      const window = parameters.get("window");
      state = { window: WINDOWS.some(([known]) => known === window) ? window : "day", policy: parameters.get("policy") };
    };
    const draw = () => {
      if (!shown) return;
      const { inForce, series, window } = shown;
      const counted = series && windows(series).shown;
      swap(body, inForcePanel(inForce), shadowPanel(inForce, counted, window), findPanel(inForce, counted, state, set));
    };
    read();
    return {
      async load(isCurrent) {
        const { window } = state;
        const [inForce, series] = await Promise.all([call("policies"), callIfPresent(`series?window=${window}`)]);
        if (!isCurrent()) return;
        shown = { inForce, series, window };
        if (series) app.isShared(series.shared, series.isolate);
        draw();
      },
      update() {
        const before = state.window;
        read();
        draw();
        return before !== state.window;
      },
      redraw: draw,
    };
  },
};

function inForcePanel({ enabled, policies: list, preflight }) {
  const columns = [
    { title: "Policy" }, { title: "Limit", number: true }, { title: "Window" }, { title: "Burst", number: true }, { title: "Block" }, { title: "Algorithm" },
    { title: "Counts" }, { title: "Mode" }, { title: "If the store fails" }, { title: "Lease", number: true }, { title: "Proven users", number: true },
  ];
  const row = (policy, note) => [
    [policy.name, (note ?? (policy.always && "every request")) && h("span", { class: "hint" }, note ?? "every request")],
    count(policy.limit), duration(1000 * policy.window_seconds), policy.burst === null ? "" : count(policy.burst),
    policy.block_seconds === null ? "" : duration(1000 * policy.block_seconds), policy.algorithm,
    [keyOf(policy), policy.ipv4_prefix !== undefined && h("span", { class: "hint" }, `IPv4 /${policy.ipv4_prefix}, IPv6 /${policy.ipv6_prefix}`)],
    h("span", { class: policy.mode === "shadow" ? "state warn" : "state" }, policy.mode), policy.on_store_failure,
    policy.lease === null ? "" : count(policy.lease), policy.authenticated === null ? "" : count(policy.authenticated),
  ];
  const rows = [...list.map((policy) => row(policy)), ...(preflight ? [row(preflight, "CORS preflights")] : [])];
  const off = !enabled && h("p", { class: "banner warn" }, "RATE_LIMIT_ENABLED is false: every request is forwarded, except those of blocked callers.");
  return panel("In force", [off, table("Policies in force", columns, rows)]);
}

const WINDOW_WORDS = { hour: "the last hour", day: "the last day", month: "the last month" };

function shadowPanel({ policies: list }, counted, window) {
  const shadows = list.filter(({ mode }) => mode === "shadow");
  const title = "Shadow policies";
  if (shadows.length === 0) return panel(title, empty("No policy is in shadow mode. Set mode = \"shadow\" to try a policy: it counts, and denies nobody."));
  if (!counted) return panel(title, empty("What they would have denied is not known, because nothing is counted. Set RATE_LIMIT_METRICS to true."));
  const columns = [{ title: "Policy" }, { title: "Decisions", number: true }, { title: "Would have been denied", number: true }, { title: "Share", number: true }];
  const rows = shadows.map(({ name }) => {
    const denied = add(counted, ({ policies }) => policies?.[name]?.shadow_denied);
    const decisions = denied + add(counted, ({ policies }) => policies?.[name]?.admitted);
    return [name, count(decisions), count(denied), percent(denied / decisions)];
  });
  return panel(title, table("What shadow policies would have denied", columns, rows, "narrow"), { note: `in ${WINDOW_WORDS[window]}` });
}

function findPanel({ policies: list }, counted, state, set) {
  const title = "Find a limit";
  const chosen = list.find(({ name }) => name === state.policy) ?? list.find(({ name }) => counted && usageOf(counted, name)) ?? list[0];
  const aside = choice("Window", WINDOWS, state.window, (value) => set("window", value));
  if (!chosen) return panel(title, empty("No policy is in force."), { aside });
  const pick = select(list.map(({ name }) => [name, name]), chosen.name, (value) => set("policy", value));
  pick.dataset.key = "policy";
  const usage = counted && usageOf(counted, chosen.name);
  const note = "How often a lower limit would have denied a caller something: the share of callers' windows in which the caller used more than that limit. "
    + "Each isolate follows the first 200 callers of a window. A caller that meets several isolates counts once in each. Windows that are not over when an isolate ends are left out.";
  const body = usage
    ? [lowerLimits(chosen, usage, state.window)]
    : [empty(counted ? `There are no figures: no use of ${chosen.name} was counted in ${WINDOW_WORDS[state.window]}.` : "There are no figures, because nothing is counted. Set RATE_LIMIT_METRICS to true.")];
  return panel(title, [field("Policy", pick), ...body], { aside, note });
}

function lowerLimits({ name, limit, burst }, usage, window) {
  const whole = burst ?? limit;
  const columns = [{ title: "Limit", number: true }, { title: "Of the limit now", number: true }, { title: "Windows above it", number: true }, { title: "Share", number: true }, { title: "Bar", hidden: true }];
  const rows = usage.map((above, tenth) => ({ above, tenth })).slice(1).reverse().map(({ above, tenth }) => {
    const share = above / usage[0];
    const lower = Math.floor((whole * tenth) / 10);
    return [count(lower), `${10 * tenth} %`, count(above), percent(share), meter(share, `${percent(share)} of callers' windows used more than ${count(lower)}`)];
  });
  return [
    h("p", {}, `${count(usage[0])} windows of callers in which ${name} was used, in ${WINDOW_WORDS[window]}. Its limit is ${count(whole)}.`),
    table(`What lower limits of ${name} would have denied`, columns, rows, "narrow"),
  ];
}

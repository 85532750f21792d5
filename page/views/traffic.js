/** The view of traffic: how many requests there are, their outcomes, and who is denied most. */
import { call, callIfPresent } from "../api.js";
import { chart } from "../chart.js";
import { OUTCOMES, colour, seriesColour } from "../colours.js";
import { choice, empty, h, loading, panel, swap } from "../dom.js";
import { count, percent, time } from "../format.js";
import { here, link, replace } from "../place.js";
import { WINDOWS, add, policiesIn, requests, shareWithoutRedis, windows } from "../series.js";

/** How many entries the lists of those denied most have. */
const MAX_RANKED = 8;
/** How many records of events the lists are made from. */
const NEWEST_EVENTS = 300;
/** How many policies have their own colour. The others are added up. */
const MAX_COLOURED_POLICIES = 6;

export const traffic = {
  name: "traffic",
  title: "Traffic",
  everyMs: 15_000,
  mount(root, app) {
    const controls = h("div", { class: "controls" });
    const tiles = h("div", { class: "tiles" }, loading());
    const charts = h("div", { class: "charts" });
    const lists = h("div", { class: "lists" });
    root.append(controls, tiles, charts, lists);
    let drawn = [];
    let state = {};
    let shown;

    const set = (name, value) => {
      const parameters = new Map(here().parameters).set(name, value);
      replace("traffic", "", [...parameters]);
    };
    const readState = () => {
      const parameters = new Map(here().parameters);
      const valid = (name, list, usual) => (list.includes(parameters.get(name)) ? parameters.get(name) : usual);
      state = { window: valid("window", ["hour", "day", "month"], "hour"), by: valid("by", ["decisions", "denials"], "decisions") };
      swap(controls, choice("Window", WINDOWS, state.window, (value) => set("window", value)));
    };

    const destroyCharts = () => {
      for (const { destroy } of drawn.splice(0)) destroy();
    };
    const draw = () => {
      if (!shown) return;
      const { series, suspicious, events, window } = shown;
      if (series === undefined) {
        swap(tiles, empty("Nothing is counted: RATE_LIMIT_METRICS is false, or this version of the limiter does not count. The events below are still recorded."));
        destroyCharts();
        swap(charts);
      } else {
        const counted = windows(series);
        swap(tiles, tilesOf(counted, window));
        destroyCharts();
        swap(charts, chartsOf(counted, state.by, (value) => set("by", value)).map(({ panel: element, chart: one }) => {
          drawn.push(one);
          return element;
        }));
      }
      swap(lists, listsOf(suspicious, events));
    };

    readState();
    return {
      async load(isCurrent) {
        const { window } = state;
        const hours = window === "hour" ? 1 : 24;
        const [series, suspicious, events] = await Promise.all([
          callIfPresent(`series?window=${window}`), call(`suspicious?hours=${hours}&limit=${MAX_RANKED}`), call(`events?limit=${NEWEST_EVENTS}`),
        ]);
        if (!isCurrent()) return;
        shown = { series, suspicious, events, window };
        app.isShared(series?.shared ?? suspicious.scope === "shared", series?.isolate);
        draw();
      },
      /** @returns whether the view has to be loaded again */
      update() {
        const before = state.window;
        readState();
        if (before === state.window) draw();
        return before !== state.window;
      },
      redraw: draw,
      unmount: destroyCharts,
    };
  },
};

function tilesOf({ shown, before }, window) {
  const outcome = (name) => (bucket) => bucket.requests?.[name];
  const than = `the ${window} before`;
  const amount = (title, of, tint) => {
    const [now, then] = [add(shown, of), add(before, of)];
    const change = then === 0 ? (now === 0 ? "as in" : "none in") : now === then ? "as in" : `${now > then ? "+" : "−"}${percent(Math.abs(now - then) / then)} on`;
    return tile(title, count(now), `${change} ${than}`, tint);
  };
  const [share, shareBefore] = [shareWithoutRedis(shown), shareWithoutRedis(before)];
  const points = 100 * (share - shareBefore);
  const change = Number.isFinite(points) ? `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)} points on ${than}` : `nothing to compare in ${than}`;
  const unavailable = outcome("unavailable");
  return [
    amount("Requests", requests),
    amount("Admitted", (bucket) => (bucket.requests?.admitted ?? 0) + (bucket.requests?.exempt ?? 0), "admitted"),
    amount("Denied", outcome("denied"), "denied"),
    amount("Blocked", outcome("blocked"), "blocked"),
    add([...shown, ...before], unavailable) > 0 && amount("Unavailable", unavailable, "unavailable"),
    tile("Decided without Redis", percent(share), change),
  ];
}

function tile(title, value, note, tint) {
  return h("div", { class: `tile ${tint ?? ""}` }, h("h2", {}, title), h("p", { class: "figure" }, value), h("p", { class: "hint" }, note));
}

function chartsOf(counted, by, chooseBy) {
  const { times, stepMs, shown, steps } = counted;
  const make = (title, series, options) => {
    const one = chart(title, times, stepMs, series);
    return { panel: panel(title, one.element, options), chart: one };
  };
  const outcomes = OUTCOMES.map(([name, title]) => ({ name: title, colour: colour(name), kind: "stack", values: steps((bucket) => bucket.requests?.[name]) }));
  const present = outcomes.filter(({ name, values }) => ["Admitted", "Denied", "Blocked"].includes(name) || values.some(Boolean));

  const names = policiesIn(shown);
  const kinds = by === "denials" ? ["denied", "blocked", "shadow_denied"] : ["admitted", "denied", "blocked"];
  const of = (name) => (bucket) => kinds.reduce((sum, kind) => sum + (bucket.policies?.[name]?.[kind] ?? 0), 0);
  const policies = names.slice(0, MAX_COLOURED_POLICIES).map((name, at) => ({ name, colour: seriesColour(at), kind: "stack", values: steps(of(name)) }));
  const others = names.slice(MAX_COLOURED_POLICIES);
  if (others.length > 0) {
    const values = steps((bucket) => others.reduce((sum, name) => sum + of(name)(bucket), 0));
    policies.push({ name: others.length === 1 ? others[0] : `${others.length} others`, colour: colour("exempt"), kind: "stack", values });
  }
  const byChoice = choice("Counted by policy", [["decisions", "Decisions"], ["denials", "Denials"]], by, chooseBy);

  const calls = steps((bucket) => (bucket.calls?.ok ?? 0) + (bucket.calls?.failed ?? 0));
  const took = steps((bucket) => bucket.took_ms);
  const store = [
    { name: "Failed calls", colour: colour("blocked"), kind: "stack", scale: "right", values: steps((bucket) => bucket.calls?.failed) },
    { name: "Mean latency", colour: colour("admitted"), kind: "line", values: took.map((ms, at) => (calls[at] > 0 ? ms / calls[at] : null)), format: (ms) => (ms === null || ms === 0 ? "–" : `${ms.toFixed(1)} ms`) },
  ];
  return [
    make("Requests by outcome", present),
    policies.length > 0
      ? make("By policy", policies, { aside: byChoice })
      : { panel: panel("By policy", empty("No policy decided in this window."), { aside: byChoice }), chart: { destroy() {} } },
    calls.some(Boolean)
      ? make("Store: latency (ms, left) and failed calls (right)", store)
      : { panel: panel("Store: latency and failed calls", empty("The store was not called in this window.")), chart: { destroy() {} } },
  ];
}

function listsOf(suspicious, { events, scope }) {
  const denied = events.filter(({ kind }) => kind === "denied");
  const from = events.length > 0 ? `of the newest ${count(events.length)} records of events, since ${time(events.at(-1).last)}` : "of the newest events";
  const where = scope === "shared" ? "" : ", of one isolate";
  const callers = suspicious.callers.map(({ caller, denied: number, policies }) => ({
    name: caller, number, hint: Object.entries(policies).map(([policy, times]) => `${policy} ${count(times)}`).join(", "), href: link("callers", caller),
  }));
  const hours = suspicious.hours === 1 ? "the last hour" : `the last ${suspicious.hours} hours`;
  return [
    panel("Callers denied most", ranking(callers, "No caller was denied by its own quota."), { note: `in ${hours}, by their own quotas${where}` }),
    panel("Paths denied most", ranking(mostFrequent(denied, "path"), "No denial is among them."), { note: from }),
    panel("Countries denied most", ranking(mostFrequent(denied, "country"), "No denial with a country is among them."), { note: from }),
    panel("Networks denied most", ranking(mostFrequent(denied, "asn", (asn) => `AS${asn}`), "No denial with a network is among them."), { note: from }),
  ];
}

/** The most frequent values of a field of events, with links to the events. */
function mostFrequent(events, fieldName, text = String) {
  const sums = new Map();
  for (const event of events) {
    const value = event[fieldName];
    if (value === undefined || value === null || value === "") continue;
    sums.set(value, (sums.get(value) ?? 0) + event.count);
  }
  const sorted = [...sums].sort(([, a], [, b]) => b - a).slice(0, MAX_RANKED);
  return sorted.map(([value, number]) => ({ name: text(value), number, href: link("events", "", [["kind", "denied"], [fieldName, String(value)]]) }));
}

function ranking(entries, otherwise) {
  if (entries.length === 0) return empty(otherwise);
  const top = Math.max(...entries.map(({ number }) => number));
  return h("ol", { class: "ranking" }, entries.map(({ name, number, hint, href }) =>
    h("li", {},
      h("a", { href, "data-key": href }, name),
      h("span", { class: "number" }, count(number)),
      h("span", { class: "bar", style: { "inline-size": `${(100 * number) / top}%` } }),
      hint && h("span", { class: "hint" }, hint))));
}

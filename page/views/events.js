/** The list of events, the newest first, with filters in the URL's hash. */
import { call } from "../api.js";
import { csv } from "../csv.js";
import { download, empty, field, h, loading, select, swap, table } from "../dom.js";
import { count, iso, time } from "../format.js";
import { here, link, replace } from "../place.js";
import { why } from "../why.js";

const EVENTS_PER_PAGE = 200;
/** How many records the page keeps. It is more than Redis keeps. */
const MAX_EVENTS = 6000;
/** How many records the table shows. */
const MAX_ROWS = 500;

const FIELDS = [["policy", "Policy"], ["caller", "Caller"], ["kind", "Kind"], ["country", "Country"], ["asn", "Network"], ["path", "Path"], ["method", "Method"], ["status", "Status"]];
const TITLES = new Map(FIELDS);

/** The prefixes of a filter in the URL, such as `policy`, `-policy` and `~path`, and their meanings. */
const WAYS = [["", "is"], ["-", "is not"], ["~", "contains"]];

/** @returns {{way: string, name: string, value: string}[]} */
export function filtersOf(parameters) {
  return parameters.flatMap(([key, value]) => {
    const way = key.startsWith("-") || key.startsWith("~") ? key[0] : "";
    const name = key.slice(way.length);
    return TITLES.has(name) ? [{ way, name, value }] : [];
  });
}

/** Whether an event passes the filters: no exclusion matches, and of each field with filters at least one matches. */
export function matches(event, filters) {
  const read = (name) => String(event[name] ?? "");
  const isSo = ({ way, name, value }) => (way === "~" ? read(name).toLowerCase().includes(value.toLowerCase()) : read(name) === value);
  if (filters.some((filter) => filter.way === "-" && isSo(filter))) return false;
  const inclusions = filters.filter(({ way }) => way !== "-");
  return [...new Set(inclusions.map(({ name }) => name))].every((name) => inclusions.some((filter) => filter.name === name && isSo(filter)));
}

const COLUMNS = ["time", "last", "kind", "caller", "address", "policy", "method", "path", "status", "count", "country", "asn", "ray", "why", "id"];

export const events = {
  name: "events",
  title: "Events",
  everyMs: 5000,
  mount(root, app) {
    const filterBar = h("div", { class: "filters" });
    const summary = h("p", { class: "hint" });
    const list = h("div", {}, loading());
    const more = h("div", { class: "actions" });
    const records = new Map();
    let filters = [];
    let older = null;
    let hasLoaded = false;
    let leftOut = 0;
    /** What the table shows now. If nothing has changed, it is not drawn again, so that a selection of text stays. */
    let drawn;

    const set = (changed) => replace("events", "", changed.map(({ way, name, value }) => [way + name, value]));
    const add = (filter) => {
      const same = ({ way, name, value }) => way === filter.way && name === filter.name && value === filter.value;
      const opposite = ({ way, name, value }) => way !== filter.way && name === filter.name && value === filter.value;
      set([...filters.filter((one) => !same(one) && !opposite(one)), filter]);
    };

    const name = select(FIELDS, "policy");
    const way = select(WAYS, "");
    const value = h("input", { type: "text", autocomplete: "off", spellcheck: "false", size: "16" });
    const form = h("form", { class: "row", onsubmit: (event) => {
      event.preventDefault();
      if (value.value !== "") add({ name: name.value, way: way.value, value: value.value.trim() });
      value.value = "";
    } }, field("Field", name), field("Match", way), field("Value", value), h("button", { type: "submit" }, "Add filter"));
    const exportAs = (type) => {
      const chosen = matching().map((event) => ({ ...event, why: why(event, app.policies()) }));
      if (type === "json") return download("events.json", "application/json", `${JSON.stringify(chosen, null, 2)}\n`);
      const rows = chosen.map((event) => ({ ...event, time: iso(event.time), last: iso(event.last) }));
      download("events.csv", "text/csv", csv(COLUMNS, rows));
    };
    const exports = h("div", { class: "row" },
      h("button", { type: "button", onclick: () => exportAs("json") }, "Export JSON"),
      h("button", { type: "button", onclick: () => exportAs("csv") }, "Export CSV"));
    root.append(h("div", { class: "controls spread" }, form, exports), filterBar, summary, list, more);

    const matching = () => [...records.values()].filter((event) => matches(event, filters)).sort((a, b) => b.last - a.last || (a.id < b.id ? -1 : 1));

    const drawFilters = () => {
      const chips = filters.map((filter, at) => {
        const { way: is, name: of, value: text } = filter;
        const without = filters.filter((_, other) => other !== at);
        const word = WAYS.find(([sign]) => sign === is)[1];
        return h("li", { class: is === "-" ? "chip excluded" : "chip" }, `${TITLES.get(of)} `,
          is === "~" ? word : h("button", { type: "button", "data-key": `turn ${at}`, "aria-label": `${word}: reverse the filter ${TITLES.get(of)} ${text}`, onclick: () => set(filters.with(at, { ...filter, way: is === "-" ? "" : "-" })) }, word),
          " ", h("b", {}, text),
          h("button", { type: "button", "data-key": `remove ${at}`, "aria-label": `Remove the filter ${TITLES.get(of)} ${text}`, onclick: () => set(without) }, "×"));
      });
      swap(filterBar, chips.length > 0 && h("ul", {}, chips, h("li", {}, h("button", { type: "button", "data-key": "clear", onclick: () => set([]) }, "Clear all"))));
    };

    const draw = () => {
      if (!hasLoaded) return;
      const chosen = matching();
      const drawing = JSON.stringify([filters, records.size, older, leftOut, chosen.map(({ id, count: times, last }) => [id, times, last])]);
      if (drawing === drawn) return;
      drawn = drawing;
      const surplus = chosen.length > MAX_ROWS ? ` The newest ${count(MAX_ROWS)} are shown; exports have all.` : "";
      const lost = leftOut > 0 ? ` ${count(leftOut)} more events were not recorded, because there was no room.` : "";
      summary.textContent = `${count(chosen.length)} of ${count(records.size)} records that are loaded. Select a value to filter by it. Hold Shift to exclude it.${surplus}${lost}`;
      if (records.size === 0) swap(list, empty("Nothing has been recorded. Denials appear here some seconds after they happen."));
      else if (chosen.length === 0) swap(list, empty("No record matches these filters."));
      else swap(list, eventTable(chosen.slice(0, MAX_ROWS), app.policies(), add));
      swap(more, older !== null && h("button", { type: "button", "data-key": "older", onclick: app.action(() => loadOlder()) }, "Load older"));
    };

    const addPage = (page) => {
      for (const event of page.events) records.set(event.id, event);
      const surplus = [...records.values()].sort((a, b) => b.last - a.last).slice(MAX_EVENTS);
      for (const { id } of surplus) records.delete(id);
      leftOut = page.left_out;
      app.isShared(page.scope === "shared");
    };
    const loadOlder = async () => {
      const page = await call(`events?limit=${EVENTS_PER_PAGE}&cursor=${encodeURIComponent(older)}`);
      older = page.cursor;
      addPage(page);
      draw();
    };

    const read = () => {
      filters = filtersOf(here().parameters);
      drawFilters();
      draw();
    };
    read();
    return {
      async load(isCurrent) {
        const page = await call(`events?limit=${EVENTS_PER_PAGE}`);
        if (!isCurrent()) return;
        if (!hasLoaded) older = page.cursor;
        hasLoaded = true;
        addPage(page);
        draw();
      },
      update() {
        read();
        return false;
      },
      redraw: draw,
    };
  },
};

const TABLE = [
  { title: "Last" }, { title: "Kind" }, { title: "Caller" }, { title: "Policy" }, { title: "Request" }, { title: "From" },
  { title: "Status", number: true }, { title: "Count", number: true }, { title: "Why" },
];

/** Events as a table. `add` is called with a filter when a value is selected. Without `add`, values cannot be selected. */
export function eventTable(list, policies, add) {
  const value = (event, name, text = event[name]) => {
    const content = event[name];
    if (content === undefined || content === null || content === "") return "";
    if (!add) return h("span", { class: name === "path" && "path" }, text);
    const style = name === "path" ? "value path" : "value";
    const choose = ({ shiftKey }) => add({ way: shiftKey ? "-" : "", name, value: String(content) });
    return h("button", { type: "button", class: style, "data-key": `${event.id} ${name}`, title: "Filter by this value. Hold Shift to exclude it", onclick: choose }, text);
  };
  const rows = list.map((event) => [
    h("time", { datetime: iso(event.last), title: `first ${iso(event.time)}` }, time(event.last)),
    h("span", { class: `kind ${event.kind}` }, value(event, "kind")),
    [
      h("div", { class: "request" }, value(event, "caller"), add && h("a", { class: "open", href: link("callers", event.caller), "aria-label": `Open the caller ${event.caller}`, title: "Open this caller", "data-key": `${event.id} open` }, "→")),
      event.address && h("span", { class: "hint" }, `from ${event.address}`),
    ],
    value(event, "policy"),
    h("div", { class: "request" }, value(event, "method"), value(event, "path")),
    h("span", { class: "short" }, value(event, "country"), " ", event.asn ? value(event, "asn", `AS${event.asn}`) : ""),
    event.status === 0 ? "" : value(event, "status"),
    count(event.count),
    h("span", { class: "why" }, why(event, policies)),
  ]);
  return h("div", { class: "events" }, table("Events", TABLE, rows));
}

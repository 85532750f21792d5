/** The view of the store: whether it answers, how fast, what it costs, its own figures, and what is wrong in the configuration. */
import { call, callIfPresent } from "../api.js";
import { chart } from "../chart.js";
import { colour } from "../colours.js";
import { empty, field, h, loading, panel, swap, table } from "../dom.js";
import { bytes, count, duration, entryOf, percent, remaining, time } from "../format.js";
import { WINDOW_MS, add, windows } from "../series.js";
import { fact } from "./callers.js";

const DAY_MS = 86_400_000;
/** Upstash's price, pay as you go, in US dollars for 100,000 commands (docs/scaling.md). */
const USUAL_PRICE = "0.20";
const PRICED_COMMANDS = 100_000;

export const store = {
  name: "store",
  title: "Store",
  everyMs: 15_000,
  mount(root, app) {
    const body = h("div", { class: "stack" }, loading());
    root.append(body);
    let shown;
    let price = USUAL_PRICE;
    let drawn;

    const draw = () => {
      if (!shown) return;
      drawn?.destroy();
      drawn = undefined;
      const { health, series, redis } = shown;
      const counted = series && windows(series);
      swap(body,
        healthPanel(health),
        counted && commandsPanel(counted, price, (value) => (price = value), (one) => (drawn = one)),
        redisPanel(redis),
        problemsPanel(health));
    };
    return {
      async load(isCurrent) {
        const [health, series, redis] = await Promise.all([call("health"), callIfPresent("series?window=hour"), callIfPresent("store")]);
        if (!isCurrent()) return;
        shown = { health, series, redis };
        app.isShared(redis?.shared ?? health.breaker !== null);
        draw();
      },
      redraw: draw,
      unmount: () => drawn?.destroy(),
    };
  },
};

const TONES = { ok: "good", degraded: "warn", misconfigured: "bad", closed: "good", open: "bad", "half-open": "warn" };

const TROUBLES = [
  ["lost", "Blocked ranges are missing from Redis"], ["blocks", "Blocks cannot be loaded"],
  ["records", "Records cannot be written"], ["key_set", "The identity provider's keys cannot be fetched"],
];

function healthPanel(health) {
  const state = (text) => h("strong", { class: `state ${entryOf(TONES, text) ?? ""}` }, text);
  const { failing } = health;
  return panel("This isolate", h("dl", { class: "facts" },
    fact("Status", state(health.status)),
    fact("Decides", health.store === "memory" ? "memory" : "Redis"),
    fact("Breaker", health.breaker === null ? "no store is configured" : state(health.breaker)),
    failing && fact("Failing since", failing.since === null ? "unknown" : time(failing.since)),
    failing && fact("Why", failing.why ?? "unknown"),
    failing?.next_try && fact("Next try in", remaining(failing.next_try)),
    TROUBLES.map(([name, title]) => health[name] && fact(title, `since ${time(health[name].since)}: ${health[name].why}`)),
    fact("Version", health.version),
  ), { note: "The state of the isolate that answered this call." });
}

function commandsPanel({ times, stepMs, shown, steps }, price, priced, keep) {
  const commands = add(shown, (bucket) => bucket.commands);
  const calls = add(shown, ({ calls: made }) => (made?.ok ?? 0) + (made?.failed ?? 0));
  const failed = add(shown, ({ calls: made }) => made?.failed);
  const took = add(shown, (bucket) => bucket.took_ms);
  const decided = add(shown, ({ sources = {} }) => Object.values(sources).reduce((sum, number) => sum + number, 0));
  const perDay = (commands * DAY_MS) / WINDOW_MS.hour;
  const cost = h("output", {});
  const input = h("input", { type: "number", min: "0", step: "0.01", value: price, "data-key": "price", oninput: () => updateCost() });
  const updateCost = () => {
    priced(input.value);
    cost.textContent = `$${((perDay / PRICED_COMMANDS) * Number(input.value)).toFixed(2)} a day`;
  };
  updateCost();
  const one = chart("Billed commands", times, stepMs, [{ name: "Commands", colour: colour("admitted"), kind: "stack", values: steps((bucket) => bucket.commands) }]);
  keep(one);
  return panel("The last hour", [
    h("dl", { class: "facts" },
      fact("Calls", count(calls)), fact("Failed", `${count(failed)} (${percent(failed / calls)})`),
      fact("Mean latency", calls > 0 ? `${(took / calls).toFixed(1)} ms` : "–"),
      fact("Billed commands", count(commands)),
      fact("Commands per decision", decided > 0 ? (commands / decided).toFixed(2) : "–"),
      fact("At this rate", `${count(Math.round(perDay))} commands a day`),
      fact("Costs", cost)),
    field("US dollars for 100,000 commands", input),
    one.element,
  ]);
}

const FIGURES = [
  ["memory_used_bytes", "Memory used", bytes], ["memory_max_bytes", "Memory limit", (number) => (number === 0 ? "none set" : bytes(number))],
  ["connected_clients", "Clients", count], ["commands_processed", "Commands processed", count],
  ["keyspace_hits", "Hits", count], ["keyspace_misses", "Misses", count],
  ["evicted_keys", "Evicted keys", count], ["expired_keys", "Expired keys", count],
  ["uptime_seconds", "Uptime", (seconds) => duration(1000 * seconds)], ["connected_replicas", "Replicas", count],
];

function redisPanel(found) {
  const title = "Redis";
  if (found === undefined) return panel(title, empty("This version of the limiter does not ask Redis for its figures."));
  const { shared, keys, redis } = found;
  if (!shared) return panel(title, empty("No Redis is configured: each isolate counts in its own memory."));
  const figures = redis ? FIGURES.filter(([name]) => typeof redis[name] === "number") : [];
  const lookups = (redis?.keyspace_hits ?? 0) + (redis?.keyspace_misses ?? 0);
  return panel(title, h("dl", { class: "facts" },
    fact("The limiter's keys", keys ? `${count(keys.count)}, counted ${time(keys.at)}` : "not counted yet"),
    figures.map(([name, text, format]) => fact(text, format(redis[name]))),
    lookups > 0 && fact("Hit rate", percent(redis.keyspace_hits / lookups)),
    fact("Figures from", redis ? time(redis.at) : "not read yet, or not reported by the store"),
  ), { note: "The schedule reads these figures every 5 minutes." });
}

function problemsPanel({ errors = [], warnings = [] }) {
  const columns = [{ title: "Kind" }, { title: "Variable" }, { title: "Rule" }];
  const rows = [...errors.map((problem) => ["error", problem]), ...warnings.map((problem) => ["warning", problem])].map(([kind, { variable, rule }]) => [
    h("span", { class: kind === "error" ? "state bad" : "state warn" }, kind), h("code", {}, variable), rule,
  ]);
  return panel("Configuration", rows.length > 0 ? table("Errors and warnings of the configuration", columns, rows) : empty("No errors and no warnings."));
}

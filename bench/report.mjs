/** Writes figures as Markdown. */

import { answering, forwarding } from "./contestants.mjs";
import { ratio } from "./targets.mjs";
import { spread } from "./statistics.mjs";

/** The summary for the README: what each row costs, answering and forwarding, compared with the peer that also counts in Upstash. */
export function shortTable({ rows, samples }) {
  const [peer, title] = Object.entries(COMPARED)[0];
  const lines = rows.filter(({ forwards, name }) => !forwards || !samples[answering(name)]).map(({ name, title }) => [
    title,
    ...[
      ratio(samples, answering(name), peer),
      ratio(samples, forwarding(name), forwarding(peer)),
      ...["roundTrips", "billed"].map((figure) => spread(samples[name].map((sample) => sample[figure]))),
    ].map((figure) => number(figure?.median)),
  ]);
  return table(["a request to", `CPU answering, ${title}`, `CPU forwarding, ${title}`, "round trips", "billed commands"], lines);
}

/** The contestants with which each row is compared. Answering rows are compared with answering ones, forwarding rows with forwarding ones. */
const COMPARED = {
  "upstash-ratelimit": "of @upstash/ratelimit",
  "js-floor": "of minimal JavaScript",
  "hono-rate-limiter": "of hono-rate-limiter",
};

export const table = (head, rows) => {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const rule = head.map((_, column) => (column === 0 ? "---" : "---:"));
  return [line(head), line(rule), ...rows.map(line)].join("\n");
};

/** A number with three significant digits and without an exponent. */
export function number(value) {
  if (value === undefined || Number.isNaN(value)) return "–";
  const magnitude = Math.abs(value);
  if (Number.isInteger(value) && magnitude < 1000) return String(value);
  return magnitude >= 100 ? Math.round(value).toLocaleString("en").replaceAll(",", " ") : String(Number(value.toPrecision(3)));
}

const withRange = ({ median, low, high }) => `${number(median)} (${number(low)}–${number(high)})`;
const megabytes = (bytes) => number(bytes / 1e6);
const kilobytes = (bytes) => (bytes === 0 ? "–" : number(bytes / 1000));

/** The costs of requests. The rows must all answer or all forward. */
export function requestsTable({ rows, samples }) {
  const of = (name, figure) => spread(samples[name].map((sample) => sample[figure]));
  const compared = rows.flatMap(({ name }) => (answering(name) in COMPARED ? [[name, COMPARED[answering(name)]]] : []));
  const head = ["", "CPU, µs", ...compared.map(([, title]) => title), "p50, ms", "p99, ms", "p99.9, ms", "requests/s", "round trips", "billed"];
  return table(head, rows.map(({ name, title }) => [
    title,
    withRange(of(name, "cpu")),
    ...compared.map(([other]) => (other === name ? "1" : withRange(ratio(samples, name, other)))),
    ...["p50", "p99", "p999", "rate", "roundTrips", "billed"].map((figure) => number(of(name, figure).median)),
  ]));
}

export function sizesTable({ rows, sizes, starting }) {
  const seen = new Set();
  const lines = rows.flatMap(({ name, title, worker }) => {
    const first = !seen.has(worker);
    seen.add(worker);
    const start = starting[name];
    if (!first && !start) return [];
    const { js, wasm, gzipped } = sizes[worker];
    return [[
      title,
      ...(first ? [kilobytes(js), kilobytes(wasm), kilobytes(gzipped)] : ["", "", ""]),
      start ? number(start.wall.median) : "–",
      start?.beyond ? withRange(start.beyond) : "–",
      start?.cpuBeyond ? withRange(start.cpuBeyond) : "–",
    ]];
  });
  return table(["", "JavaScript, kB", "Wasm, kB", "gzipped, kB", "first answer, ms", "beyond the bare one's, ms", "CPU beyond it, ms"], lines);
}

export function memoryTable({ rows, growth }) {
  const lines = rows.filter(({ name }) => growth[name]).map(({ name, title }) => {
    const { heap, linear, resident } = growth[name];
    return [title, ...[heap, linear, heap + linear, resident].map(megabytes)];
  });
  return table(["", "JavaScript, MB", "Wasm, MB", "both, MB", "process, MB"], lines);
}

export function targetsTable(judged) {
  const lines = judged.map(({ target, measured, range, unit, met }) => [
    target,
    `${number(measured)}${unit}${range ? ` (${range.map(number).join("–")})` : ""}`,
    met ? "met" : "**not met**",
  ]);
  return table(["target", "measured", ""], lines);
}

/** What the fault suite saw, as a table: printed, and kept in docs/reliability.md when asked to. */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const DOCUMENT = fileURLToPath(new URL("../../docs/reliability.md", import.meta.url));
const [BEGIN, END] = ["<!-- the matrix begins -->", "<!-- the matrix ends -->"];

const HEADINGS = [
  "fault", "on `memory`, within the limit", "on `memory`, over it", "on `allow`, within", "on `allow`, over", "on `deny`, all",
  "calls to the store", "breaker", "slowest answer", "recovered after",
];

/** `41 x 200, 5 x 429`. */
function statuses(answers) {
  const counts = new Map();
  for (const { status } of answers) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => a - b).map(([status, count]) => `${count} x ${status}`).join(", ");
}

/**
 * One row: what callers saw while the store failed.
 *
 * @param {object} seen
 * @param {import("./faults.mjs").Fault} seen.fault
 * @param {import("./load.mjs").Load} seen.load
 * @param {number} seen.first calls until the breaker was open
 * @param {number} seen.further calls from then on, until the fault was mended
 * @param {string[]} seen.changes of the breaker, `open`, `asks`, `closed`
 * @param {number} [seen.recovered] ms
 */
export function row({ fault, load, first, further, changes, recovered }) {
  const meanwhile = ({ from, to }) => from === "failing" && to === "failing";
  const during = (callers) => callers.flatMap((caller) => caller.answers.filter(meanwhile));
  const cells = ["memory", "allow"].flatMap((policy) => {
    const { within, over } = load.of(policy);
    return [statuses(during(within)), statuses(during([over]))];
  });
  const { within, over } = load.of("deny");
  const failed = fault.why !== null;
  const slowest = Math.max(...during(load.callers).map(({ ms }) => ms));
  const asked = changes.filter((change) => change === "asks").length;
  return [
    fault.what, ...cells, statuses(during([...within, over])),
    failed ? `${first} until it opened, then ${further}` : String(first + further),
    failed ? `opened; ${asked} ${asked === 1 ? "probe" : "probes"}` : "stayed closed",
    `${Math.round(slowest)} ms`,
    failed ? `${Math.round(recovered)} ms` : "-",
  ];
}

/** The rows as Markdown. */
export function table(rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(HEADINGS), line(HEADINGS.map(() => "---")), ...rows.map(line)].join("\n");
}

/** Replaces the table in the document. */
export function keep(rows) {
  const text = readFileSync(DOCUMENT, "utf8");
  const [begin, end] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
  if (begin < BEGIN.length || end < begin) throw new Error(`${DOCUMENT} has no place for the table`);
  writeFileSync(DOCUMENT, `${text.slice(0, begin)}\n${table(rows)}\n${text.slice(end)}`);
}


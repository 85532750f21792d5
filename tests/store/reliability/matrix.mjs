/** Results of the fault suite as a table, which the suite prints and can write to docs/reliability.md. */

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { POLICIES } from "./load.mjs";

const DOCUMENT = fileURLToPath(new URL("../../../docs/reliability.md", import.meta.url));
const [BEGIN, END] = ["<!-- the matrix begins -->", "<!-- the matrix ends -->"];

const HEADINGS = ["fault", "on `memory`", "on `allow`", "on `deny`", "calls to the store", "breaker", "slowest answer", "back after"];

/** Counts answers by status, e.g. `41 x 200, 5 x 429`. */
function statuses(answers) {
  const counts = new Map();
  for (const { status } of answers) counts.set(status, (counts.get(status) ?? 0) + 1);
  return [...counts].sort(([a], [b]) => a - b).map(([status, count]) => `${count} x ${status}`).join(", ");
}

/**
 * Returns one row: what callers saw while the store failed.
 *
 * @param {object} seen
 * @param {import("./faults.mjs").Fault} seen.fault
 * @param {import("./load.mjs").Load} seen.load
 * @param {number} seen.first calls until the breaker was open
 * @param {number} seen.further calls from then on, until the fault ended
 * @param {string[]} seen.changes state changes of the breaker: `open`, `half-open`, `closed`
 * @param {number} [seen.recoveryMs] from the end of the fault until the breaker closed
 */
export function row({ fault, load, first, further, changes, recoveryMs }) {
  const during = (callers) => callers.flatMap(({ answers }) => answers.filter(({ from, to }) => from === "failing" && to === "failing"));
  const [memory, allow, deny] = POLICIES.map((policy) => load.of(policy));
  const both = ({ within, over }) => `within ${statuses(during(within))}; over ${statuses(during([over]))}`;
  const slowest = `${Math.round(Math.max(...during(load.callers).map(({ ms }) => ms)))} ms`;
  const cells = [fault.what, both(memory), both(allow)];
  if (fault.why === null) return [...cells, both(deny), String(first + further), "stayed closed", slowest, "-"];
  const calls = first + further === 0 ? "none arrived" : `${first} until it opened, then ${further}`;
  const probes = changes.filter((change) => change === "half-open").length;
  return [...cells, statuses(during([...deny.within, deny.over])), calls, `opened, ${probes} probes`, slowest, `${Math.round(recoveryMs)} ms`];
}

/** Returns the rows as a Markdown table. */
export function table(rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [line(HEADINGS), line(HEADINGS.map(() => "---")), ...rows.map(line)].join("\n");
}

/** Replaces the text between the markers in docs/reliability.md. */
export function writeDocs(introduction, rows) {
  const text = readFileSync(DOCUMENT, "utf8");
  const [begin, end] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
  if (begin < BEGIN.length || end < begin) throw new Error(`${DOCUMENT} lacks the comments between which the table belongs: add ${BEGIN} and ${END}`);
  writeFileSync(DOCUMENT, `${text.slice(0, begin)}\n${introduction}\n\n${table(rows)}\n${text.slice(end)}`);
}


/** The printed table and the JSON report of a run. */

import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { root } from "../../../scripts/command.mjs";
import { provenance } from "../../../bench/machine.mjs";

const FOLDER = path.join(root, "tests", "load", "reports");

const HEADINGS = ["scenario", "requests", "admitted", "denied", "refused", "errors", "p50 ms", "p95 ms", "p99 ms", "verdict"];

/** Returns the results as a Markdown table with aligned columns. */
export function table(results) {
  const rows = [HEADINGS, ...results.map(row)];
  const widths = HEADINGS.map((_, column) => Math.max(...rows.map((cells) => cells[column].length)));
  const isNumber = (column) => column > 0 && column < HEADINGS.length - 1;
  const line = (cells) => `| ${cells.map((cell, column) => (isNumber(column) ? cell.padStart(widths[column]) : cell.padEnd(widths[column]))).join(" | ")} |`;
  const rule = widths.map((width, column) => (isNumber(column) ? `${"-".repeat(width - 1)}:` : "-".repeat(width)));
  return [line(rows[0]), line(rule), ...rows.slice(1).map(line)].join("\n");
}

function row({ name, tally, broken }) {
  const { p50, p95, p99 } = tally.latency();
  const counts = [tally.requests, tally.all("admitted"), tally.all("denied"), tally.all("refused"), tally.errors + tally.all("failed")];
  const times = [p50, p95, p99].map((ms) => (ms === undefined ? "-" : ms.toFixed(1)));
  return [name, ...counts.map((count) => count.toLocaleString("en")), ...times, broken.length === 0 ? "ok" : `FAILED (${broken.length})`];
}

/** Writes the report to tests/load/reports, and also to `copy` if given. Returns its path in the repository. */
export function keep(suite, options, results, copy) {
  const report = {
    suite, ...provenance(), options,
    ok: results.every(({ broken }) => broken.length === 0),
    scenarios: results.map(({ name, proves, tally, steps, notes, billed, criteria, broken }) => ({
      name, proves, ok: broken.length === 0, seconds: tally.seconds, requests: tally.requests, admitted: tally.all("admitted"), denied: tally.all("denied"),
      refused: tally.all("refused"), errors: tally.errors + tally.all("failed"), latency: tally.latency(), billed, steps, notes, criteria, counters: tally.counters,
    })),
  };
  const text = JSON.stringify(report, null, 2);
  mkdirSync(FOLDER, { recursive: true });
  const file = path.join(FOLDER, `${suite}-${new Date().toISOString().replace(/[:.]/g, "-")}.json`);
  for (const each of copy ? [file, path.resolve(copy)] : [file]) writeFileSync(each, text);
  return path.relative(root, file);
}

/** docs/troubleshooting.md quotes the limiter's answers and log lines. A quotation that the code does not contain is out of date. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { root } from "../../scripts/command.mjs";

/** The headings of table columns that quote messages. */
const QUOTING = ["status", "message", "line", "reason", "rule", "code"];

/** A shorter piece, such as a word between two gaps, could occur anywhere. */
const MIN_PIECE_CHARACTERS = 6;

describe("docs/troubleshooting.md", () => {
  const page = readFileSync(path.join(root, "docs", "troubleshooting.md"), "utf8");
  // A Rust text that continues on the next line has a backslash at the line's end.
  const code = ["src", "npm/src", "scripts"].flatMap(textsOf).join("\n").replaceAll(/\\\n\s*/g, "");

  it("quotes only messages that the code contains", () => {
    const quoted = quotations(page);
    assert.ok(quoted.length > 40, `only ${quoted.length} quotations were found`);
    assert.deepEqual(quoted.filter((text) => !piecesOf(text).every((piece) => code.includes(piece))), []);
  });

  it("has gaps (…) for the parts of a message that vary, and each piece between them is checked", () => {
    assert.deepEqual(piecesOf("The origin sent an interim response (…), which the limiter"), ["The origin sent an interim response (", "), which the limiter"]);
    assert.deepEqual(quotations("| reason | fix |\n| --- | --- |\n| `a`, `b c` | `d` |\n\n| other |\n| --- |\n| `e` |\n"), ["a", "b c"]);
  });
});

function textsOf(folder) {
  return readdirSync(path.join(root, folder), { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) return entry.name === "tests" ? [] : textsOf(file);
    return /\.(rs|js|mjs)$/.test(entry.name) && !/tests?\./.test(entry.name) ? [readFileSync(path.join(root, file), "utf8")] : [];
  });
}

/** The texts in backticks in the columns that quote messages. */
function quotations(text) {
  return [...text.matchAll(/(?:^\|.*\n)+/gm)].flatMap(([table]) => {
    const [heading, , ...rows] = table.trimEnd().split("\n").map((row) => row.split("|").slice(1, -1).map((cell) => cell.trim()));
    const columns = heading.flatMap((name, place) => (QUOTING.includes(name) ? [place] : []));
    return rows.flatMap((row) => columns.flatMap((place) => [...row[place].matchAll(/`([^`]+)`/g)].map(([, quoted]) => quoted)));
  });
}

function piecesOf(quoted) {
  const pieces = quoted.split("…").map((piece) => piece.trim());
  return pieces.length === 1 ? pieces : pieces.filter((piece) => piece.length >= MIN_PIECE_CHARACTERS);
}

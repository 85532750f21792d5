/** docs/troubleshooting.md quotes what the limiter answers and logs: each quotation is in the code, or the page is out of date. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { root } from "../../scripts/command.mjs";

/** The tables whose column quotes messages, by the column's heading. */
const QUOTING = ["status", "message", "line", "reason", "rule", "code"];

/** Shorter pieces, such as a word between two gaps, could be anywhere. */
const MIN_PIECE_CHARACTERS = 6;

describe("docs/troubleshooting.md", () => {
  const page = readFileSync(path.join(root, "docs", "troubleshooting.md"), "utf8");
  // A text that goes on in the next line of Rust has a backslash at the line's end.
  const code = ["src", "npm/src", "scripts"].flatMap(textsOf).join("\n").replaceAll(/\\\n\s*/g, "");

  it("quotes messages that the code has", () => {
    const quoted = quotations(page);
    assert.ok(quoted.length > 40, `${quoted.length}`);
    assert.deepEqual(quoted.filter((text) => !piecesOf(text).every((piece) => code.includes(piece))), []);
  });

  it("is checked piece by piece where a message has parts that vary", () => {
    assert.deepEqual(piecesOf("The origin sent an interim response, …, which cannot"), ["The origin sent an interim response,", ", which cannot"]);
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

/** What is in code marks in the quoting columns. */
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

/** Comma-separated values (RFC 4180). */

/** The characters with which a spreadsheet begins a formula. */
const FORMULA = /^[=+\-@\t\r\n]/;

/** One cell. A text that a spreadsheet would run as a formula gets an apostrophe in front, so that it is shown as text. */
function cell(value) {
  if (typeof value === "number") return String(value);
  const text = String(value ?? "");
  const harmless = FORMULA.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless;
}

/** @param {string[]} columns names of fields @param {Record<string, unknown>[]} records */
export function csv(columns, records) {
  const lines = [columns, ...records.map((record) => columns.map((column) => record[column]))];
  return lines.map((line) => `${line.map(cell).join(",")}\r\n`).join("");
}

/** Comma-separated values (RFC 4180). */

/** What a spreadsheet takes for the beginning of a formula. */
const FORMULA = /^[=+\-@\t\r\n]/;

/** A cell: a text that would be a formula gets an apostrophe, which spreadsheets show as text. */
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

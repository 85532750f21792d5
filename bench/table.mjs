/** Writes numbers and tables as Markdown. */

/** A number with three significant digits and with thousands separators. */
export function number(value) {
  if (value === undefined) return "-";
  if (value >= 1000 || Number.isInteger(value)) return Math.round(Number(value.toPrecision(3))).toLocaleString("en");
  return value.toPrecision(3);
}

export const whole = (value) => value.toLocaleString("en");

export function table(headings, rows) {
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const numbers = headings.map((_, column) => (column === 0 ? "---" : "---:"));
  return [line(headings), line(numbers), ...rows.map(line)].join("\n");
}

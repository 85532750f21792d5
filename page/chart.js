/** Charts over time, drawn by uPlot. Each has a legend in text, and shows the same numbers as a table. */
import uPlot from "uplot";
import { colour } from "./colours.js";
import { axisTime, compact, count, time } from "./format.js";
import { h, table } from "./dom.js";

const HEIGHT_PX = 190;
const AXIS_FONT = "11px system-ui, sans-serif";

/**
 * @typedef {object} Series
 * @property {string} name
 * @property {string} colour
 * @property {number[]} values one for each step
 * @property {"stack" | "line"} kind
 * @property {string} [scale] `y` (default) or `right`
 * @property {(value: number) => string} [format]
 */

/**
 * Draws a chart with its legend. Put the returned element into the page, and call `destroy` before you replace it.
 *
 * @param {string} title
 * @param {number[]} times when each step begins, in ms since the epoch
 * @param {number} stepMs
 * @param {Series[]} series the first one is the lowest of the stack
 * @returns {{element: HTMLElement, destroy: () => void}}
 */
export function chart(title, times, stepMs, series) {
  const canvas = h("div", { class: "canvas", role: "img", "aria-label": summary(title, times, series) });
  const at = h("span", { class: "at" });
  const readings = series.map(({ name, colour: tint, values, format = count, scale }) => {
    const total = scale === "right" || format !== count ? "" : count(sum(values));
    const value = h("span", { class: "value" }, total);
    return { value, total, element: h("li", {}, h("span", { class: "swatch", style: { "background-color": tint } }), name, " ", value) };
  });
  const legend = h("div", { class: "legend" }, h("ul", {}, readings.map(({ element }) => element)), at);
  const numbers = h("details", { class: "numbers", "data-key": `${title} numbers` }, h("summary", { "data-key": `${title} summary` }, "As a table"));
  numbers.addEventListener("toggle", () => numbers.open && numbers.childElementCount === 1 && numbers.append(asTable(title, times, series)));
  const element = h("div", { class: "chart" }, legend, canvas, numbers);

  const show = (index) => {
    const isAt = index !== null && index !== undefined;
    at.textContent = isAt ? time(times[index]) : "";
    series.forEach(({ values, format = count }, which) => {
      readings[which].value.textContent = isAt ? format(values[index] ?? 0) : readings[which].total;
    });
  };
  let plot;
  const draw = () => {
    const width = canvas.clientWidth;
    if (width === 0) return;
    if (plot) plot.setSize({ width, height: HEIGHT_PX });
    else plot = new uPlot(options(width, stepMs, series, show), data(times, series), canvas);
  };
  const observer = new ResizeObserver(draw);
  observer.observe(canvas);
  return {
    element,
    destroy: () => {
      observer.disconnect();
      plot?.destroy();
    },
  };
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

function summary(title, times, series) {
  const last = series.map(({ name, values, format = count }) => `${name} ${format(values.at(-1) ?? 0)}`);
  return `${title}, ${times.length} steps up to ${time(times.at(-1) ?? 0)}. Last: ${last.join(", ")}.`;
}

function asTable(title, times, series) {
  const columns = [{ title: "From" }, ...series.map(({ name }) => ({ title: name, number: true }))];
  const rows = times.map((at, index) => [time(at), ...series.map(({ values, format = count }) => format(values[index] ?? 0))]);
  return table(`${title}, as numbers`, columns, rows.reverse());
}

/** The series in the order in which they are drawn. A stack is drawn from the highest to the lowest, each in front of the one before. */
function ordered(series) {
  const stacked = series.filter(({ kind }) => kind === "stack");
  return [...stacked.reverse(), ...series.filter(({ kind }) => kind === "line")];
}

function data(times, series) {
  const heights = new Map();
  let below = times.map(() => 0);
  for (const one of series) {
    if (one.kind !== "stack") continue;
    below = below.map((height, index) => height + (one.values[index] ?? 0));
    heights.set(one, below);
  }
  return [times.map((at) => at / 1000), ...ordered(series).map((one) => heights.get(one) ?? one.values)];
}

function options(width, stepMs, series, show) {
  const axis = { stroke: colour("muted"), font: AXIS_FONT, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
  const bars = uPlot.paths.bars({ size: [0.85, 40], align: 1 });
  const hasRight = series.some(({ scale }) => scale === "right");
  const number = (format) => (_, values) => values.map((value) => format(value));
  return {
    width,
    height: HEIGHT_PX,
    padding: [8, hasRight ? 0 : 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: (_, min, max) => [min, max + stepMs / 1000] },
      y: { range: (_, __, max) => [0, Math.max(max * 1.05, 1)] },
      right: { range: (_, __, max) => [0, Math.max(max * 1.05, 1)] },
    },
    axes: [
      { ...axis, grid: { show: false }, size: 26, values: (_, seconds, __, ___, apart) => seconds.map((at) => axisTime(1000 * at, 1000 * apart)) },
      { ...axis, size: 48, values: number((value) => (Number.isInteger(value) ? compact(value) : "")) },
      ...(hasRight ? [{ ...axis, scale: "right", side: 1, size: 40, grid: { show: false }, values: number((value) => (Number.isInteger(value) ? compact(value) : "")) }] : []),
    ],
    series: [
      {},
      ...ordered(series).map(({ name, colour: tint, kind, scale = "y" }) =>
        kind === "stack"
          ? { label: name, scale, stroke: tint, fill: tint, width: 0, paths: bars, points: { show: false } }
          : { label: name, scale, stroke: tint, width: 1.75, points: { show: false }, spanGaps: true }),
    ],
    hooks: { setCursor: [({ cursor }) => show(cursor.idx)] },
  };
}

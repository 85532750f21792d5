/** The colours of charts, read from the style sheet. */

/** The outcomes of requests. The first one is the lowest of the stack. */
export const OUTCOMES = [
  ["admitted", "Admitted"],
  ["exempt", "Exempt"],
  ["denied", "Denied"],
  ["blocked", "Blocked"],
  ["unavailable", "Unavailable"],
];

/** How many colours there are for series without a fixed colour. */
const SERIES_COLOURS = 8;

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const colour = (name) => variable(`--${name}`);
export const seriesColour = (at) => variable(`--series-${(at % SERIES_COLOURS) + 1}`);

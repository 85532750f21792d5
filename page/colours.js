/** Colours of what is counted, as the style sheet has them. */

/** Outcomes in the order in which they are stacked, from below. */
export const OUTCOMES = [
  ["admitted", "Admitted"],
  ["exempt", "Exempt"],
  ["denied", "Denied"],
  ["blocked", "Blocked"],
  ["unavailable", "Unavailable"],
];

/** How many colours there are for what has none of its own. */
const FURTHER = 8;

const variable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const colour = (name) => variable(`--${name}`);
export const nth = (at) => variable(`--series-${(at % FURTHER) + 1}`);

/** The metrics that the limiter exposes, from a page as it is scraped, and what an expression reads of them. */

import { readFileSync } from "node:fs";
import path from "node:path";
import { root } from "../../scripts/command.mjs";

export const PAGE = path.join("tests", "ops", "metrics.txt");

/** Labels that Prometheus and its configuration add to every sample, and the name of an isolate that shares nothing. */
const TARGET_LABELS = ["instance", "job", "environment", "isolate"];

const KEYWORDS = new Set(["and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan"]);

/**
 * What is exposed: of each metric the values that its labels have. A histogram is its three series.
 *
 * @returns {Map<string, Map<string, Set<string>>>}
 */
export function exposed(text = readFileSync(path.join(root, PAGE), "utf8")) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const [, name, , labels = ""] = /^([a-z_]+)(\{(.*)\})? \S+$/.exec(line);
    const known = metrics.get(name) ?? metrics.set(name, new Map()).get(name);
    for (const [, label, value] of labels.matchAll(/([a-z_]+)="((?:[^"\\]|\\.)*)"/g)) {
      known.set(label, (known.get(label) ?? new Set()).add(value));
    }
  }
  return metrics;
}

/** The metrics that an expression names, with the matchers of each: `[{metric, matchers: [{label, operator, value}]}]`. */
export function references(expression) {
  const tokens = [...expression.matchAll(/"((?:[^"\\]|\\.)*)"|\[[^\]]*\]|[a-zA-Z_:][\w:]*|=~|!~|!=|[-+*/^%(){},=<>]+?|\d[\w.]*|\s+/g)];
  const words = tokens.map(([text]) => text).filter((text) => text.trim() !== "");
  const found = [];
  for (let at = 0; at < words.length; at++) {
    const word = words[at];
    if (["by", "without", "on", "ignoring", "group_left", "group_right"].includes(word)) {
      // A list of labels: no metrics.
      if (words[at + 1] === "(") while (words[at] !== ")") at++;
    } else if (/^[a-zA-Z_:]/.test(word) && !KEYWORDS.has(word.toLowerCase()) && words[at + 1] !== "(" && !followsList(words, at)) {
      const matchers = [];
      if (words[at + 1] === "{") {
        for (at += 2; words[at] !== "}"; at += words[at + 3] === "," ? 4 : 3) {
          matchers.push({ label: words[at], operator: words[at + 1], value: JSON.parse(words[at + 2]) });
        }
      }
      found.push({ metric: word, matchers });
    }
  }
  return found;
}

/** `sum by (…) (…)`: the aggregation comes before a word, not a parenthesis. */
function followsList(words, at) {
  return ["by", "without"].includes(words[at + 1]);
}

/** What is wrong with what an expression reads: `recorded` are the names of recording rules. */
export function problems(expression, recorded, metrics = exposed()) {
  return references(expression).flatMap(({ metric, matchers }) => {
    if (metric === "up" || recorded.has(metric)) return [];
    const labels = metrics.get(metric);
    if (!labels) return [`${metric} is no metric of the limiter`];
    return matchers.flatMap(({ label, operator, value }) => {
      if (TARGET_LABELS.includes(label)) return [];
      const values = labels.get(label);
      if (!values) return [`${metric} has no label ${label}`];
      const wanted = operator.endsWith("~") ? value.split("|") : [value];
      return wanted.filter((one) => !values.has(one)).map((one) => `${metric} has no ${label} "${one}"`);
    });
  });
}

/** The metrics that the limiter exposes, read from a stored scrape, and the check of expressions against them. */

import { readFileSync } from "node:fs";
import path from "node:path";
import { root } from "../../scripts/command.mjs";

export const METRICS_FILE = path.join("tests", "ops", "metrics.txt");

/** Labels that Prometheus and its configuration add to every sample, and `isolate`, which an isolate without a shared store adds. */
const TARGET_LABELS = ["instance", "job", "environment", "isolate"];

const KEYWORDS = new Set(["and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "inf", "nan"]);

/**
 * Reads a scrape: for each metric its labels, and the values of each label. A histogram is its three series.
 *
 * @returns {Map<string, Map<string, Set<string>>>}
 */
export function exposed(text = readFileSync(path.join(root, METRICS_FILE), "utf8")) {
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
      // A list of labels contains no metrics.
      if (words[at + 1] === "(") while (words[at] !== ")") at++;
    } else if (/^[a-zA-Z_:]/.test(word) && !KEYWORDS.has(word.toLowerCase()) && words[at + 1] !== "(" && !precedesLabelList(words, at)) {
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

/** Whether a list of labels follows a word, as in `sum by (…) (…)`. Such a word is an aggregation, although no parenthesis follows it. */
function precedesLabelList(words, at) {
  return ["by", "without"].includes(words[at + 1]);
}

/** The metrics, labels and values that an expression reads and that do not exist. `recorded` has the names of the recording rules. */
export function problems(expression, recorded, metrics = exposed()) {
  return references(expression).flatMap(({ metric, matchers }) => {
    if (metric === "up" || recorded.has(metric)) return [];
    const labels = metrics.get(metric);
    if (!labels) return [`${metric} is not a metric of the limiter`];
    return matchers.flatMap(({ label, operator, value }) => {
      if (TARGET_LABELS.includes(label)) return [];
      const values = labels.get(label);
      if (!values) return [`${metric} has no label ${label}`];
      const wanted = operator.endsWith("~") ? value.split("|") : [value];
      return wanted.filter((one) => !values.has(one)).map((one) => `${metric} has no ${label} "${one}"`);
    });
  });
}

/** What edge-limiter is to reach, as ratios of one run, and whether it does. */

import { median, spread } from "./statistics.mjs";

const KILOBYTE = 1000;

/** `of` and `to`: contestants, the first to be at most `most` times the second, in CPU per decision. */
const RATIOS = [
  { must: true, of: "two-quotas", to: "upstash-ratelimit", most: 0.65 },
  { must: true, of: "two-quotas", to: "rust-floor", most: 1.15 },
  { must: true, of: "remembered-denial", to: "rust", most: 1.2 },
  { must: true, of: "two-quotas", to: "upstash-ratelimit", most: 1, figure: "p99" },
  { must: false, of: "two-quotas", to: "upstash-ratelimit", most: 0.5 },
  { must: false, of: "two-quotas", to: "js-floor", most: 1.3 },
  { must: false, of: "memory", to: "hono-rate-limiter", most: 1.2 },
  { must: false, of: "remembered-denial", to: "rust", most: 1 },
];

const SIZE = 200 * KILOBYTE;
const START_MS = 30;

/** The rows whose isolate must start so quickly: with and without a store to connect to. */
const STARTING = ["memory", "two-quotas"];

const FIGURES = { cpu: "CPU per decision", p99: "median p99" };

/**
 * The ratio of two contestants' figures, round by round.
 *
 * @returns {{median: number, low: number, high: number} | undefined} `undefined` where one of them was not measured
 */
export function ratio(samples, of, to, figure = "cpu") {
  if (!samples[of] || !samples[to]) return undefined;
  return spread(samples[of].map((sample, round) => sample[figure] / samples[to][round][figure]));
}

/**
 * @param {{titles: Record<string, string>, samples: object, sizes: object, starting: object}} measured
 * @returns {{must: boolean, target: string, measured: number, range?: [number, number], unit: string, met: boolean}[]} those
 *   whose figures were measured
 */
export function targets({ titles, samples, sizes, starting }) {
  const judged = [];
  for (const { must, of, to, most, figure = "cpu" } of RATIOS) {
    const rounds = ratio(samples, of, to, figure);
    if (!rounds) continue;
    // Of the p99s the medians are compared, since one round's is a few requests.
    const medianOf = (name) => median(samples[name].map((sample) => sample[figure]));
    const measured = figure === "cpu" ? rounds.median : medianOf(of) / medianOf(to);
    const target = `${FIGURES[figure]}, ${titles[of]}, at most ${most} of ${titles[to]}`;
    const range = figure === "cpu" ? [rounds.low, rounds.high] : undefined;
    judged.push({ must, target, measured, range, unit: "", met: measured <= most });
  }
  const limiter = sizes["edge-limiter"];
  if (limiter) {
    const target = `size, JavaScript and WebAssembly, at most ${SIZE / KILOBYTE} KB gzipped`;
    judged.push({ must: true, target, measured: limiter.gzipped / KILOBYTE, unit: " KB", met: limiter.gzipped <= SIZE });
  }
  for (const name of STARTING) {
    if (!starting[name]?.beyond) continue;
    const { median: measured, low, high } = starting[name].beyond;
    const target = `start-up beyond a bare Worker's, ${titles[name]}, under ${START_MS} ms`;
    judged.push({ must: true, target, measured, range: [low, high], unit: " ms", met: measured < START_MS });
  }
  return judged;
}

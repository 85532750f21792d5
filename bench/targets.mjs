/** The targets of edge-limiter, as ratios within one run, and whether they are met. */

import { forwarding } from "./contestants.mjs";
import { spread } from "./statistics.mjs";

/** The contestant `of` should use at most `max` times the CPU per request of the contestant `to`. `must`: the target has to be met. */
const RATIOS = [
  { must: true, of: forwarding("memory"), to: forwarding("hono-rate-limiter"), max: 1.2 },
  { must: true, of: forwarding("two-quotas"), to: forwarding("upstash-ratelimit"), max: 1.15 },
  { must: true, of: forwarding("two-quotas"), to: forwarding("js-floor"), max: 1.35 },
  { must: true, of: "memory", to: "hono-rate-limiter", max: 1.15 },
  { must: true, of: "two-quotas", to: "upstash-ratelimit", max: 1.05 },
  { must: true, of: "two-quotas", to: "js-floor", max: 1.4 },
  { must: false, of: forwarding("two-quotas"), to: forwarding("upstash-ratelimit"), max: 1 },
  { must: false, of: "two-quotas", to: "upstash-ratelimit", max: 1 },
];

const MAX_GZIPPED_KB = 310;

/** The same for the time to the first answer, beyond the bare Worker's. */
const START = { of: "two-quotas", to: "upstash-ratelimit", max: 2.5 };

/**
 * The ratio of two contestants' CPU per request, round by round.
 *
 * @returns {{median: number, low: number, high: number} | undefined} `undefined` if one of them was not measured
 */
export function ratio(samples, of, to) {
  if (!samples[of] || !samples[to]) return undefined;
  return spread(samples[of].map(({ cpu }, round) => cpu / samples[to][round].cpu));
}

/**
 * @param {{titles: Record<string, string>, samples: object, sizes: object, starting: object}} measured
 * @returns {{must: boolean, target: string, measured: number, range?: [number, number], unit: string, met: boolean}[]} the targets
 *   whose figures were measured
 */
export function targets({ titles, samples, sizes, starting }) {
  const judged = [];
  for (const { must, of, to, max } of RATIOS) {
    const rounds = ratio(samples, of, to);
    if (!rounds) continue;
    const doing = of === forwarding(of) ? "forwarding" : "answering";
    const target = `CPU per request, ${doing}: ${titles[of]}, at most ${max} of ${titles[to]}`;
    judged.push({ must, target, measured: rounds.median, range: [rounds.low, rounds.high], unit: "", met: rounds.median <= max });
  }
  const limiter = sizes["edge-limiter"];
  if (limiter) {
    const measured = limiter.gzipped / 1000;
    const target = `size, JavaScript and WebAssembly: at most ${MAX_GZIPPED_KB} kB gzipped`;
    judged.push({ must: true, target, measured, unit: " kB", met: measured <= MAX_GZIPPED_KB });
  }
  const [start, peer] = [START.of, START.to].map((name) => starting[name]?.beyond?.median);
  // If a peer started no later than the bare Worker, the difference is noise and a ratio has no meaning.
  if (start !== undefined && peer > 0) {
    // A ratio of medians, because within one turn a small difference of the peer would give an arbitrary ratio.
    const measured = start / peer;
    const target = `first answer, beyond a bare Worker's: ${titles[START.of]}, at most ${START.max} of ${titles[START.to]}`;
    judged.push({ must: true, target, measured, unit: "", met: measured <= START.max });
  }
  return judged;
}

import { FINANCIAL } from "../limits.mjs";

export const proves = "oversized requests are refused with a 4xx and not charged, large bodies are not kept in memory, and others are served";

/** How much a process may grow: far less than the bodies that are sent to it at a time. */
const MAX_GROWTH_BYTES = 96e6;

/** If a connection ends while a body is sent, the answer is lost. The decision still counts in Redis and in the event log. */
export const recorded = (run) => Math.max(0, run.sent("big-body") - FINANCIAL.limit);

export async function judge({ run, criteria, redis, grownBytes }) {
  for (const name of ["long-path", "huge-header", "many-headers"]) {
    criteria.atLeast(`requests of ${name}`, run.sent(name), 1);
    criteria.equal(`refused requests of ${name} (expected: all)`, run.of(name, "refused"), run.sent(name));
  }
  criteria.equal("keys of callers with oversized requests", await redis.keys("*:198.51.100.3[123]"), []);
  criteria.atLeast("requests of big-body", run.sent("big-body"), 1);
  criteria.atMost("admitted requests of big-body", run.of("big-body", "admitted"), FINANCIAL.limit);
  criteria.equal("units of big-body that Redis counts", await redis.consumed("financial:198.51.100.34"), Math.min(FINANCIAL.limit, run.sent("big-body")));
  criteria.equal("requests of big-body answered with 5xx", run.of("big-body", "failed"), 0);
  criteria.allServed("bystander");
  if (grownBytes !== undefined) criteria.atMost("bytes by which the process grew", grownBytes, MAX_GROWTH_BYTES);
}

import { FINANCIAL } from "../limits.mjs";

export const proves = "what is too large is refused with a 4xx and counted nowhere, bodies are not kept, the process lives, others are served";

/** What a process may grow by, in bytes: far less than the bodies that it is sent at a time. */
const GROWTH = 96e6;

/** What became of a request whose connection ended with its body under way is in Redis and on record, be its answer lost. */
export const recorded = (run) => Math.max(0, run.sent("big-body") - FINANCIAL.limit);

export async function judge({ run, criteria, redis, grown }) {
  for (const name of ["long-path", "huge-header", "many-headers"]) {
    criteria.atLeast(`requests of ${name}`, run.sent(name), 1);
    criteria.equal(`all of ${name} are refused`, run.of(name, "refused"), run.sent(name));
  }
  criteria.equal("none of them is charged", await redis.keys("*:198.51.100.3[123]"), []);
  criteria.atLeast("requests of big-body", run.sent("big-body"), 1);
  criteria.atMost("big bodies admitted, as small ones are", run.of("big-body", "admitted"), FINANCIAL.limit);
  criteria.equal("big bodies counted in Redis, up to the limit", await redis.consumed("financial:198.51.100.34"), Math.min(FINANCIAL.limit, run.sent("big-body")));
  criteria.equal("no big body is an error of the server's", run.of("big-body", "failed"), 0);
  criteria.allServed("bystander");
  if (grown !== undefined) criteria.atMost("bytes that the process grew by", grown, GROWTH);
}

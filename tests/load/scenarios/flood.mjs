import { AUTH } from "../limits.mjs";

export const proves = "the cost of a denied caller does not grow with its flood, and others are served meanwhile";

/** Billed commands of an admission under two policies, and of a denial by Redis. */
const [ADMISSION, DENIAL] = [4, 2];

/** How long an isolate repeats a denial without asking Redis. */
const REMEMBERED_S = 10;

/** Billed commands with which an isolate writes its events, some of them for each caller and policy, and the seconds between two writes. */
const [WRITE, WRITE_INTERVAL_S] = [15, 3];

/** The most requests of the flooder in flight before its first denial: at most as many as virtual users had started by then. */
const AT_ONCE = 50;

export async function judge({ run, criteria, billed, redis }) {
  await criteria.heldTo("flooder", AUTH, { blocked: true, key: "auth:198.51.100.99" });
  criteria.allServed("bystander");
  const flood = billed - ADMISSION * run.of("bystander", "admitted");
  const asked = AT_ONCE + Math.ceil(run.seconds / REMEMBERED_S) + 1;
  const written = WRITE * Math.ceil(run.seconds / WRITE_INTERVAL_S + 1);
  criteria.atMost("billed commands for all of the flood", flood, ADMISSION * AUTH.limit + DENIAL * asked + 1 + written);
  criteria.atLeast("requests of the flood for each billed command", run.sent("flooder") / flood, 10);
  criteria.equal("units of auth that Redis counts (expected: the limit)", await redis.total("auth"), AUTH.limit);
}

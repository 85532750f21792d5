import { AUTH } from "../limits.mjs";

export const proves = "what a denied caller costs does not grow with its flood, and others are served meanwhile";

/** Of an admission under two policies, and of a denial that is asked for. */
const [ADMISSION, DENIAL] = [4, 2];

/** How long a denial is repeated without asking Redis. */
const REMEMBERED_S = 10;

/** What an isolate writes its events for, every few seconds at most: each write is some commands, and some for each caller and policy. */
const [WRITE, WRITES_S] = [15, 3];

/** Requests of the flooder that can be in flight before the first denial is known: as many as virtual users had come by then, at most. */
const AT_ONCE = 50;

export async function judge({ run, criteria, billed, redis }) {
  await criteria.heldTo("flooder", AUTH, { blocked: true, key: "auth:198.51.100.99" });
  criteria.allServed("bystander");
  const flood = billed - ADMISSION * run.of("bystander", "admitted");
  const asked = AT_ONCE + Math.ceil(run.seconds / REMEMBERED_S) + 1;
  const written = WRITE * Math.ceil(run.seconds / WRITES_S + 1);
  criteria.atMost("billed commands for all of the flood", flood, ADMISSION * AUTH.limit + DENIAL * asked + 1 + written);
  criteria.atLeast("requests of the flood for each such command", run.sent("flooder") / flood, 10);
  criteria.equal("Redis has counted nothing of it beyond the limit", await redis.total("auth"), AUTH.limit);
}

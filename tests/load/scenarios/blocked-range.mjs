const RANGES = ["203.0.113.0/24", "2001:db8:bad::/48"];

/** An address of each. */
const INSIDE = ["203.0.113.7", "2001:db8:bad:7::7"];

export const proves = "a range blocked at one limiter is denied at all, whole and to the address; next door is admitted; lifted, it is in again";

export const processes = 2;

/** Blocked at the first, and in force at each before anything is sent: the README says within ten seconds. */
export async function variables({ operator, everywhere }) {
  for (const range of RANGES) await operator.block(range, { seconds: 3600, reason: "load test" });
  await everywhere(INSIDE, "blocked");
}

export async function judge({ run, criteria, redis, operator, limiters, everywhere }) {
  criteria.atLeast("insider: requests", run.sent("insider"), 1);
  criteria.equal("insider: denied, all", run.of("insider", "denied"), run.sent("insider"));
  criteria.equal("insider: told that it is blocked", run.of("insider", "blocked"), run.sent("insider"));
  for (const name of ["neighbour", "bystander"]) criteria.allServed(name);
  const counted = [...(await redis.keys("*:203.0.113.*")), ...(await redis.keys("*:2001:db8:bad:*"))];
  criteria.equal("nothing is counted for the ranges, but before they were blocked", counted.filter((key) => !INSIDE.some((address) => key.includes(address.replace("::7", "::")))), []);
  criteria.equal("blocked: the ranges alone", (await operator.blocked()).map(({ target }) => target).sort(), [...RANGES].sort());
  for (const range of RANGES) criteria.equal(`${range}: lifted`, await operator.lift(range), true);
  criteria.equal("then both are admitted, by each limiter", await everywhere(INSIDE, "admitted"), INSIDE.length * limiters.length);
}

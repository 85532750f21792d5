const RANGES = ["203.0.113.0/24", "2001:db8:bad::/48"];

/** One address in each range. */
const INSIDE = ["203.0.113.7", "2001:db8:bad:7::7"];

export const proves = "a range blocked at one limiter is denied at all of them, addresses right next to it are admitted, and its own again once the block is lifted";

export const processes = 2;

/** Blocks the ranges at the first limiter, and waits until each limiter denies them, which takes ten seconds at most. */
export async function variables({ operator, everywhere }) {
  for (const range of RANGES) await operator.block(range, { seconds: 3600, reason: "load test" });
  await everywhere(INSIDE, "blocked");
}

export async function judge({ run, criteria, redis, operator, limiters, everywhere }) {
  criteria.atLeast("insider: requests", run.sent("insider"), 1);
  criteria.equal("insider: denied (expected: all)", run.of("insider", "denied"), run.sent("insider"));
  criteria.equal("insider: denials that say that the caller is blocked", run.of("insider", "blocked"), run.sent("insider"));
  for (const name of ["neighbour", "bystander"]) criteria.allServed(name);
  const counted = [...(await redis.keys("*:203.0.113.*")), ...(await redis.keys("*:2001:db8:bad:*"))];
  criteria.equal("keys of the ranges' addresses, except those used before the block", counted.filter((key) => !INSIDE.some((address) => key.includes(address.replace("::7", "::")))), []);
  criteria.equal("blocks (expected: the two ranges)", (await operator.blocked()).map(({ target }) => target).sort(), [...RANGES].sort());
  for (const range of RANGES) criteria.equal(`whether the block of ${range} was lifted`, await operator.lift(range), true);
  criteria.equal("pairs of a range and a limiter that admits it afterwards", await everywhere(INSIDE, "admitted"), INSIDE.length * limiters.length);
}

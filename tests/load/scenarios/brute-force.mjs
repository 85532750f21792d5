import { AUTH } from "../limits.mjs";

export const proves = "an address gets exactly 30 guesses, and so does a /64 whose owner changes the address for each request";

export async function judge({ criteria, redis, ask }) {
  await criteria.heldTo("one-address", AUTH, { blocked: true, key: "auth:198.51.100.66" });
  await criteria.heldTo("one-network", AUTH, { blocked: true, key: "auth:2001:db8:bad:1::/64" });
  criteria.allAdmitted("user");
  criteria.equal("keys of the network in Redis (expected: one quota and its block)", (await redis.keys("auth:2001:*")).sort(), ["auth:2001:db8:bad:1::/64", "auth:2001:db8:bad:1::/64:blocked"]);
  const { status } = await ask("2001:db8:bad:2::1", "/api/auth/login");
  criteria.equal("status for the network next to it", status, 200);
}

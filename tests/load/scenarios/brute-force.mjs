import { AUTH } from "../limits.mjs";

export const proves = "30 guesses for an address, and 30 for a /64 however often its owner changes the address";

export async function judge({ criteria, redis, ask }) {
  await criteria.heldTo("one-address", AUTH, { blocked: true, key: "auth:198.51.100.66" });
  await criteria.heldTo("one-network", AUTH, { blocked: true, key: "auth:2001:db8:bad:1::/64" });
  criteria.allAdmitted("user");
  criteria.equal("the whole network is one key in Redis", (await redis.keys("auth:2001:*")).sort(), ["auth:2001:db8:bad:1::/64", "auth:2001:db8:bad:1::/64:blocked"]);
  const { status } = await ask("2001:db8:bad:2::1", "/api/auth/login");
  criteria.equal("the network next door is let in", status, 200);
}

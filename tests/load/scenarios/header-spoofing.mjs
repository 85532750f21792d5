import { AUTH } from "../limits.mjs";

export const proves = "no header that a client writes is an address: one caller, one limit, and nobody else is charged";

export async function judge({ criteria, redis, ask }) {
  await criteria.heldTo("forger", AUTH, { blocked: true, key: "auth:198.51.100.9" });
  // Who cannot be told apart is never blocked: it would lock out others.
  await criteria.heldTo("doubled", AUTH, { blocked: false, key: "auth:unknown" });
  criteria.equal("nobody was charged in whose name they came", await redis.keys("*:203.0.113.*"), []);
  const { status, headers } = await ask("203.0.113.50", "/api/auth/login");
  criteria.equal("one of these has a whole limit", [status, headers["x-ratelimit-remaining"]], [200, String(AUTH.limit - 1)]);
}

import { AUTH } from "../limits.mjs";

export const proves = "a caller that forges headers has one limit, and no other caller is charged";

export async function judge({ criteria, redis, ask }) {
  await criteria.heldTo("forger", AUTH, { blocked: true, key: "auth:198.51.100.9" });
  // Callers without a known address share a quota, and a block of it would deny all of them: it is never blocked.
  await criteria.heldTo("doubled", AUTH, { blocked: false, key: "auth:unknown" });
  criteria.equal("keys of the forged addresses", await redis.keys("*:203.0.113.*"), []);
  const { status, headers } = await ask("203.0.113.50", "/api/auth/login");
  criteria.equal("status and remaining requests of a forged address", [status, headers["x-ratelimit-remaining"]], [200, String(AUTH.limit - 1)]);
}

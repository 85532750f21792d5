/** The application that tests run on every platform. It is copied into each project, which has the package installed. */
import { createLimiter } from "edge-limiter";

/** @param {object} options options of the limiter */
export function application(options) {
  const limiter = createLimiter(options);
  /** @param {object} call options of each call */
  async function handle(request, call) {
    if (new URL(request.url).pathname === "/calls") return Response.json(await calls(limiter, call));
    const verdict = await limiter.limit(request, call);
    return verdict.allowed ? verdict.decorate(new Response("hello")) : verdict.response;
  }
  return { limiter, handle };
}

/** Makes calls of every kind except `limit`. Their results have to be the same on every platform. */
async function calls(limiter, call) {
  const code = (promise) => promise.then(() => "none", (error) => `${error.name} ${error.code}`);
  const checks = [];
  for (let i = 0; i < 3; i += 1) {
    const { allowed, remaining } = await limiter.check("auth", "user:1", call);
    checks.push([allowed, remaining]);
  }
  const { used, limit } = await limiter.usage("auth", "user:1", call);
  await limiter.reset("auth", "user:1", call);
  const { allowed } = await limiter.check("auth", "user:1", { ...call, cost: 0 });
  const { redis } = limiter;
  const values = [await redis.set("greeting", "hällo", { ex: 60 }), await redis.get("greeting"), await redis.incr("count"), await redis.incr("count"), await redis.expire("count", 60), await redis.del("count", "none"), await redis.get("count")];
  await redis.blockIP("203.0.113.0/24", 60, "a test");
  const blocks = [await redis.isIPBlocked("203.0.113.9"), (await redis.getBlockedIPs()).map(({ ip }) => ip), await redis.unblockIP("203.0.113.0/24"), await redis.isIPBlocked("203.0.113.9")];
  const { status, store, version } = await limiter.health(call);
  const codes = [await code(limiter.check("no-such-policy", "user:1", call)), await code(redis.incr("greeting")), await code(redis.get(""))];
  return { checks, used, limit, afterReset: allowed, values, blocks, health: [status, store, version], codes };
}

/**
 * One contestant in its own process: `node redis.mjs NAME PORT LIMIT SECONDS CALLERS`. The parent forks it in a folder where the packages are
 * installed. It makes as many decisions as each message asks for, with the Redis on that port, and reports their time and CPU.
 */
import { Redis } from "ioredis";
import { RateLimiterRedis } from "rate-limiter-flexible";
import { createLimiter } from "edge-limiter";

const name = process.argv[2];
const [port, limit, seconds, callers] = process.argv.slice(3).map(Number);

/** All contestants call Redis for each decision, over one connection of ioredis. */
const CONTESTANTS = {
  "rate-limiter-flexible"() {
    const limiter = new RateLimiterRedis({ storeClient: new Redis({ port }), points: limit, duration: seconds });
    return (key) => limiter.consume(key).then(() => true, () => false);
  },
  "edge-limiter": () => edgeLimiter({ env: environment({ REDIS_URL: `redis://127.0.0.1:${port}` }) }),
  "edge-limiter, fixed window": () => edgeLimiter({
    env: environment({ REDIS_URL: `redis://127.0.0.1:${port}`, RATE_LIMIT_POLICIES: '{"general":{"algorithm":"fixed-window"}}' }),
  }),
  "edge-limiter by the application's client": () => edgeLimiter({ env: environment(), redis: new Redis({ port }) }),
};

/** Every contestant has its own key prefix, because their states differ. */
const environment = (further) => ({ RATE_LIMIT_GENERAL: `${limit},${seconds}`, RATE_LIMIT_IP: "off", REDIS_TIMEOUT: "30000", REDIS_KEY_PREFIX: `${name.replaceAll(/\W+/g, "-")}:`, ...further });

function edgeLimiter(options) {
  const limiter = createLimiter(options);
  return async (key) => {
    const { allowed } = await limiter.check("general", key);
    return allowed;
  };
}

const keys = Array.from({ length: callers }, (_, caller) => `198.51.${caller >> 8}.${caller & 255}`);
const decide = CONTESTANTS[name]();
let next = 0;

process.on("message", async ({ count, lanes }) => {
  const took = new Float64Array(count);
  let [begun, allowed] = [0, 0];
  const before = process.cpuUsage();
  const started = performance.now();
  const lane = async () => {
    while (begun < count) {
      const place = begun;
      begun += 1;
      const since = performance.now();
      if (await decide(keys[next++ % callers])) allowed += 1;
      took[place] = performance.now() - since;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  const elapsed = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(before);
  took.sort();
  const quantile = (share) => took[Math.min(count - 1, Math.floor(share * count))];
  process.send({ allowed, seconds: elapsed, cpu: user + system, p50: quantile(0.5), p99: quantile(0.99) });
});

// Ends with the process that started this one.
process.on("disconnect", () => process.exit());
process.send({ ready: true });

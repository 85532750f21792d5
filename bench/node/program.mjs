/**
 * One contestant in its own process: `node program.mjs NAME WHAT LIMIT SECONDS CALLERS`. The parent forks it in a folder where the packages
 * are installed, and talks to it by messages.
 *   server      serves Express with the contestant as middleware, and reports the port
 *   decisions   makes as many decisions as each message asks for, and reports their time and CPU
 */
import { once } from "node:events";
import express from "express";
import { rateLimit as expressRateLimit, MemoryStore } from "express-rate-limit";
import { RateLimiterMemory } from "rate-limiter-flexible";
import { createLimiter } from "edge-limiter";
import { rateLimit as edgeLimiter } from "edge-limiter/node";

const [name, what, limit, seconds, callers] = [process.argv[2], process.argv[3], ...process.argv.slice(4).map(Number)];

/** All contestants have one quota for each address, in memory, and send the three headers about what is left of it. */
const CONTESTANTS = {
  bare: {
    middleware: () => (_request, _response, next) => next(),
  },
  "express-rate-limit": {
    middleware: () => expressRateLimit({ windowMs: 1000 * seconds, limit }),
    // It has no call for a decision: its store counts, and its middleware compares.
    decide() {
      const store = new MemoryStore();
      store.init({ windowMs: 1000 * seconds });
      return async (key) => (await store.increment(key)).totalHits <= limit;
    },
  },
  "rate-limiter-flexible": {
    middleware() {
      const limiter = new RateLimiterMemory({ points: limit, duration: seconds });
      const setHeaders = (response, { remainingPoints, msBeforeNext }) => {
        response.setHeader("X-RateLimit-Limit", limit);
        response.setHeader("X-RateLimit-Remaining", remainingPoints);
        response.setHeader("X-RateLimit-Reset", Math.ceil((Date.now() + msBeforeNext) / 1000));
      };
      return (request, response, next) => {
        limiter.consume(request.ip).then(
          (result) => {
            setHeaders(response, result);
            next();
          },
          (rejected) => {
            if (rejected instanceof Error) return next(rejected);
            setHeaders(response, rejected);
            response.setHeader("Retry-After", Math.ceil(rejected.msBeforeNext / 1000));
            response.status(429).send("Too many requests");
          },
        );
      };
    },
    decide() {
      const limiter = new RateLimiterMemory({ points: limit, duration: seconds });
      return (key) => limiter.consume(key).then(() => true, () => false);
    },
  },
  "edge-limiter": {
    middleware: () => edgeLimiter({ trustProxy: 1, env: environment() }),
    decide() {
      const limiter = createLimiter({ env: environment() });
      return async (key) => (await limiter.check("general", key)).allowed;
    },
  },
};

const environment = () => ({ RATE_LIMIT_GENERAL: `${limit},${seconds}`, RATE_LIMIT_IP: "off" });

async function serve(middleware) {
  const app = express();
  app.set("trust proxy", 1);
  app.use(middleware);
  app.get("/", (_request, response) => response.json({ admitted: true }));
  const server = app.listen(0, "127.0.0.1");
  await once(server, "listening");
  process.send({ port: server.address().port });
}

function answer(decide) {
  const keys = Array.from({ length: callers }, (_, caller) => `198.51.${caller >> 8}.${caller & 255}`);
  process.on("message", async ({ count }) => {
    const before = process.cpuUsage();
    const started = performance.now();
    let allowed = 0;
    for (let i = 0; i < count; i++) if (await decide(keys[i % callers])) allowed += 1;
    const elapsed = (performance.now() - started) / 1000;
    const { user, system } = process.cpuUsage(before);
    process.send({ allowed, seconds: elapsed, cpu: user + system });
  });
  process.send({ ready: true });
}

// Ends with the process that started this one.
process.on("disconnect", () => process.exit());
const { middleware, decide } = CONTESTANTS[name];
if (what === "server") await serve(middleware());
else answer(decide());

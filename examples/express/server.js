import { createLimiter } from "edge-limiter";
import { rateLimit } from "edge-limiter/node";
import express from "express";

const limiter = createLimiter({
  // The number of proxies in front of this server. With 0 the caller's address is the connection's.
  trustProxy: Number(process.env.PROXIES ?? 0),
  env: {
    ...process.env,
    RATE_LIMIT_GENERAL: "60,60",
    RATE_LIMIT_LOGIN: "5,60,600",
    RATE_LIMIT_EXPORT: "100,3600",
    RATE_LIMIT_ROUTES: [{ path: "/login", methods: ["POST"], policies: ["general", "login"] }],
  },
});

const app = express();
app.use(rateLimit({ limiter }));

app.get("/", (request, response) => response.send("Hello"));
app.post("/login", (request, response) => response.status(401).send("Wrong password"));

/** Costs one unit for each hundred rows. All exports share one quota. */
app.get("/export", async (request, response) => {
  const rows = Number(request.query.rows ?? 100);
  if (!Number.isInteger(rows) || rows < 1) return response.status(400).send("rows must be a whole number");
  const cost = Math.ceil(rows / 100);
  const { allowed, retryAfter } = await limiter.check("export", "everybody", { cost });
  if (allowed) return response.send("Exported");
  if (retryAfter !== undefined) response.set("Retry-After", String(retryAfter));
  return response.status(429).send("Too many rows");
});

const port = process.env.PORT ?? 3000;
app.listen(port, () => console.log(`http://localhost:${port}`));

import { rateLimit } from "edge-limiter/hono";
import { Hono } from "hono";

const app = new Hono();
app.use(rateLimit());
app.get("/", (c) => c.text("Hello"));
app.post("/login", (c) => c.json({ error: "Wrong password" }, 401));

export default app;

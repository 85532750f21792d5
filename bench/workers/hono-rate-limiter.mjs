/** `hono-rate-limiter` as its documentation uses it, counting in its own memory: a fixed window. */

import { Hono } from "hono";
import { rateLimiter } from "hono-rate-limiter";
import { body, forward } from "./answer.mjs";

/** Created at the first request, because its store sets a timer, which a Worker may not do outside of a request. */
let app;

function make(env) {
  const app = new Hono();
  app.use(rateLimiter({
    windowMs: Number(env.WINDOW_MS),
    limit: Number(env.LIMIT),
    keyGenerator: (context) => context.req.header("CF-Connecting-IP") ?? "unknown",
  }));
  if (env.ORIGIN_URL) {
    app.all("*", async (context) => {
      const fetched = await forward(context.req.raw, env);
      // If the fetched response were returned itself, it would lack the limiter's headers.
      return context.body(fetched.body, fetched);
    });
  } else {
    app.get("/", (context) => {
      context.header("Cache-Control", "no-store");
      return context.json(body(context.req.header("CF-Connecting-IP"), true));
    });
  }
  return app;
}

export default {
  fetch(request, env, context) {
    app ??= make(env);
    return app.fetch(request, env, context);
  },
};

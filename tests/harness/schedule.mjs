/** Runs the limiter's schedule on demand, by a request. On Cloudflare a cron trigger runs it. */

import { send } from "./request.mjs";

const PATH = "/run-schedule";

/** The `modules` for `startWorkerd`: a Worker in front of the limiter that runs the schedule on demand. */
export const ON_DEMAND = {
  "main.js": `
import limiter from "./index.js";
export default {
  async fetch(request, env, context) {
    if (new URL(request.url).pathname !== "${PATH}") return limiter.fetch(request, env, context);
    const duties = [];
    limiter.scheduled({}, env, { waitUntil: (duty) => duties.push(duty) });
    await Promise.all(duties);
    return new Response(duties.length);
  },
};`,
};

/** Runs the schedule of a limiter that was started with `ON_DEMAND`, and waits for its end. */
export const runSchedule = (limiter) => send(limiter.url, { path: PATH, headers: { "CF-Connecting-IP": "192.0.2.1" } });

/** A minimal rate limiter in JavaScript: a fixed window, one quota, one REST call, and no handling of failures. */

import { answer, callerOf } from "./answer.mjs";
import SCRIPT from "./floor.lua";

/** The SHA-1 of `floor.lua`. With a wrong one, every decision would take two round trips, which the bench refuses. */
const SCRIPT_SHA1 = "b3688e1b5045a550a8afae22c924c7aa8bc31032";

export default {
  async fetch(request, env) {
    const [limit, window] = [Number(env.LIMIT), Number(env.WINDOW_MS)];
    const caller = callerOf(request);
    const started = Math.floor(Date.now() / window);
    const rest = ["1", `js-floor:${caller}:${started}`, String(window)];
    let reply = await ask(env, ["EVALSHA", SCRIPT_SHA1, ...rest]);
    if (reply.error?.startsWith("NOSCRIPT")) reply = await ask(env, ["EVAL", SCRIPT, ...rest]);
    if (reply.error !== undefined) throw new Error(reply.error);
    const count = reply.result;
    return answer(request, env, {
      caller,
      admitted: count <= limit,
      limit,
      remaining: Math.max(0, limit - count),
      reset: Math.ceil(((started + 1) * window) / 1000),
    });
  },
};

async function ask(env, command) {
  const response = await fetch(env.UPSTASH_REDIS_REST_URL, {
    method: "POST",
    headers: { Authorization: `Bearer ${env.UPSTASH_REDIS_REST_TOKEN}`, "Content-Type": "application/json" },
    body: JSON.stringify(command),
  });
  return response.json();
}

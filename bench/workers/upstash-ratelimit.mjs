/** `@upstash/ratelimit` as its README shows it: created once, with one sliding window and default options. */

import { Ratelimit } from "@upstash/ratelimit";
import { Redis } from "@upstash/redis/cloudflare";
import { answer, callerOf } from "./answer.mjs";

/** Kept between requests, so that its own cache of denials works. */
let ratelimit;

export default {
  async fetch(request, env, context) {
    ratelimit ??= new Ratelimit({
      redis: Redis.fromEnv(env),
      limiter: Ratelimit.slidingWindow(Number(env.LIMIT), `${Number(env.WINDOW_MS)} ms`),
    });
    const caller = callerOf(request);
    const { success, limit, remaining, reset, pending } = await ratelimit.limit(caller);
    context.waitUntil(pending);
    return answer(request, env, { caller, admitted: success, limit, remaining, reset: Math.ceil(reset / 1000) });
  },
};

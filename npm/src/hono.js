/** Middleware for Hono (types/hono.d.ts). */
import { limiterOf } from "./wrapping.js";

export function rateLimit({ address, ...options } = {}) {
  const limiter = limiterOf(options);
  return async (context, next) => {
    const verdict = await limiter.limit(context.req.raw, { waitUntil: waitUntilOf(context), address: address?.(context) });
    if (!verdict.allowed) return verdict.response;
    await next();
    const decorated = verdict.decorate(context.res);
    // Hono would copy the headers of a response that it has already.
    context.res = undefined;
    context.res = decorated;
  };
}

function waitUntilOf(context) {
  let execution;
  try {
    execution = context.executionCtx;
  } catch {
    // On servers there is none.
    return undefined;
  }
  return (promise) => execution.waitUntil(promise);
}

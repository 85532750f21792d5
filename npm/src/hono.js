/** Middleware for Hono (types/hono.d.ts). */
import { limiterOf } from "./wrapping.js";

export function rateLimit({ address, ...options } = {}) {
  const limiter = limiterOf(options);
  return async (context, next) => {
    const verdict = await limiter.limit(context.req.raw, { waitUntil: waitUntilOf(context), address: address?.(context) });
    if (!verdict.allowed) return verdict.response;
    await next();
    const decorated = verdict.decorate(context.res);
    // If it already has a response, Hono would copy that one's headers into the new one.
    context.res = undefined;
    context.res = decorated;
  };
}

function waitUntilOf(context) {
  let execution;
  try {
    execution = context.executionCtx;
  } catch {
    // Hono throws on servers, which have no execution context.
    return undefined;
  }
  return (promise) => execution.waitUntil(promise);
}

/** The proxy (`proxy.ts`) or middleware (`middleware.ts`) of a Next.js application (types/next.d.ts). */
import { NextResponse } from "next/server.js";
import { limiterOf } from "./wrapping.js";

export function rateLimit(options = {}, handler = undefined) {
  const limiter = limiterOf(options);
  return async (request, event) => {
    const verdict = await limiter.limit(request, event?.waitUntil && { waitUntil: (promise) => event.waitUntil(promise) });
    if (!verdict.allowed) return verdict.response;
    return verdict.decorate((await handler?.(request, event)) ?? NextResponse.next());
  };
}

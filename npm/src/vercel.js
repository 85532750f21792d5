/** What the package needs to know about Vercel. Both its Node and its edge runtime use this file. */

/** Whether this runs on Vercel, which sets `VERCEL=1` in the process. `env`, which the application may pass, need not contain it. */
export const isVercel = (env) => env?.VERCEL === "1" || globalThis.process?.env?.VERCEL === "1";

/** The header that Vercel sets to the connection's address. It overwrites what the client sent. */
export const ADDRESS_HEADER = "x-real-ip";

/** The global symbol under which Vercel keeps the current request's context. Its library `@vercel/functions` finds `waitUntil` there too. */
const CONTEXT = Symbol.for("@vercel/request-context");

export const waitUntilOfRequest = () => {
  const context = globalThis[CONTEXT]?.get?.();
  return context?.waitUntil && ((promise) => context.waitUntil(promise));
};

/** Vercel, on whose machines the package runs in both of its runtimes. */

/** Vercel sets `VERCEL=1` where its code runs; `env` may be another environment, which the application passes. */
export const isVercel = (env) => env?.VERCEL === "1" || globalThis.process?.env?.VERCEL === "1";

/** Vercel sets it to the address of the connection, whatever the client sent under that name. */
export const ADDRESS_HEADER = "x-real-ip";

/** Where Vercel's own library, `@vercel/functions`, finds `waitUntil` of the request that runs. */
const CONTEXT = Symbol.for("@vercel/request-context");

export const waitUntilOfRequest = () => {
  const context = globalThis[CONTEXT]?.get?.();
  return context?.waitUntil && ((promise) => context.waitUntil(promise));
};

/** Vercel's edge runtime, on Vercel and in Next.js. */
import { ADDRESS_HEADER, isVercel, waitUntilOfRequest } from "../vercel.js";

export const defaultEnv = () => globalThis.process?.env ?? {};
export const endsBackgroundWork = () => true;
export const defaultWaitUntil = waitUntilOfRequest;
export const addressHeader = (env) => (isVercel(env) ? ADDRESS_HEADER : undefined);

/** Some versions of Next.js cache the responses that `fetch` gets, even to a POST. */
export const fetchOptions = { cache: "no-store" };

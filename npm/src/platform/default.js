/** Node, Deno and Bun. Their processes keep running after a response, except on Vercel, which suspends them. */
import { ADDRESS_HEADER, isVercel, waitUntilOfRequest } from "../vercel.js";

export const defaultEnv = () => globalThis.process?.env ?? {};
export const endsBackgroundWork = isVercel;
export const defaultWaitUntil = waitUntilOfRequest;
export const addressHeader = (env) => (isVercel(env) ? ADDRESS_HEADER : undefined);

/** Some versions of Next.js cache the responses that `fetch` gets, even to a POST. */
export const fetchOptions = { cache: "no-store" };

/** Servers that go on after a response: Node, Deno, Bun. Vercel stops them in between. */
import { ADDRESS_HEADER, isVercel, waitUntilOfRequest } from "../vercel.js";

export const defaultEnv = () => globalThis.process?.env ?? {};
export const endsBackgroundWork = isVercel;
export const defaultWaitUntil = waitUntilOfRequest;
export const addressHeader = (env) => (isVercel(env) ? ADDRESS_HEADER : undefined);

/** Some versions of Next.js cache what `fetch` is answered, a POST too. */
export const fetchOptions = { cache: "no-store" };

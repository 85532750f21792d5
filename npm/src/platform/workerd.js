/** Cloudflare Workers. */
import * as workers from "cloudflare:workers";

export const defaultEnv = () => workers.env ?? {};

/** Background work ends with the request that began it, unless it is passed to `waitUntil`. */
export const endsBackgroundWork = () => true;

/** `undefined` in older runtimes. */
export const defaultWaitUntil = () => workers.waitUntil;

/** The header in which Cloudflare puts the caller's address. No client can set it. */
export const addressHeader = () => "cf-connecting-ip";

/** No `cache` option: Workers with older compatibility dates refuse it, and no Worker caches a POST. */
export const fetchOptions = {};

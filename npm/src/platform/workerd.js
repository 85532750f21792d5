/** Cloudflare Workers. */
import * as workers from "cloudflare:workers";

export const defaultEnv = () => workers.env ?? {};

/** Background work ends with the request that began it, unless the platform is passed it. */
export const endsBackgroundWork = () => true;

/** Absent in older runtimes. */
export const defaultWaitUntil = () => workers.waitUntil;

/** The header with the caller's address that the platform sets, and no client can. */
export const addressHeader = () => "cf-connecting-ip";

/** Workers of older compatibility dates refuse `cache`, and none caches a POST. */
export const fetchOptions = {};

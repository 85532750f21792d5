/** Starts the stand-in for Upstash in its own process, so that its CPU is not counted as the load's. */

import { startUpstash } from "../scripts/start.mjs";
import { call } from "../tests/upstash/rest-caller.mjs";

export async function startStandIn() {
  const standIn = await startUpstash();
  const control = async (path, body, method = "POST") => {
    const { status, json, text } = await call(standIn, `/__stand-in/${path}`, body, { method });
    if (status !== 200) throw new Error(`the stand-in answered ${status}: ${text}`);
    return json;
  };
  return {
    vars: { UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token },
    /** The number of requests and billed commands so far. */
    async counts() {
      const { requests, billed } = await control("stats", undefined, "GET");
      return { requests, billed };
    },
    /** Delays every request by `ms`; 0 ends the delay. */
    delay: (ms) => control("faults", ms > 0 ? { kind: "delay", ms } : []),
    reset: () => control("reset"),
    stop: () => standIn.stop(),
  };
}

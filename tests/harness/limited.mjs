/**
 * Limiters on one Redis, through one stand-in for Upstash: what a test of shared limits needs.
 */

import assert from "node:assert/strict";
import { cost } from "../upstash/cost.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";
import { CALLER } from "./fixtures.mjs";
import { send } from "./request.mjs";
import { startWorkerd } from "./workerd.mjs";

/** The prefix of every key. */
export const PREFIX = "t:";

/** A window that starts less than half of its length ago, so that no boundary is near: a fixed one is aligned to the epoch. */
export const WINDOW = [86_400, 100_000, 130_000].find((seconds) => (Date.now() / 1000) % seconds < seconds / 2) ?? 10 ** 7;

/** Variables with which a limiter calls the stand-in's Redis itself. */
export const OVER_TCP = { UPSTASH_REDIS_REST_URL: "", UPSTASH_REDIS_REST_TOKEN: "", REDIS_URL: "redis://STAND-IN" };

/** A failure with which Redis has surely decided nothing: what memory admits meanwhile is backlog. */
export const DOWN = { kind: "status", status: 400, body: `{"error":"OOM command not allowed when used memory > 'maxmemory'."}` };

/**
 * A stand-in over a Redis of its own, and what starts limiters on it.
 *
 * @param {object} [options] of the stand-in
 * @returns {Promise<{
 *   standIn: object,
 *   limiter: (vars?: object, options?: object) => Promise<object>,
 *   warm: (vars?: object, options?: object) => Promise<object>,
 *   cost: (work: () => Promise<unknown>) => Promise<{billed: number, requests: number}>,
 *   costOf: (limiter: {url: string}, caller?: string, path?: string) => Promise<string>,
 *   reset: () => Promise<void>,
 *   stop: () => Promise<void>,
 * }>}
 */
export async function startShared(options) {
  const standIn = await startStandIn(options);
  const limiters = [];
  return {
    standIn,
    /** A limiter whose script Redis has, and which has asked for nobody that a test asks for. */
    async warm(vars, options) {
      const started = await this.limiter(vars, options);
      assert.equal(await ask(started, "192.0.2.250"), 200);
      return started;
    },
    /** The commands billed and the HTTP requests while `work` runs. */
    cost: (work) => cost(standIn, work),
    /** One request's status, and the commands and HTTP requests that it costs: "200 3 1". */
    async costOf(limiter, caller = CALLER, path = "/") {
      let status;
      const { billed, requests } = await cost(standIn, async () => {
        status = await ask(limiter, caller, path);
      });
      return `${status} ${billed} ${requests}`;
    },
    async limiter(vars = {}, options = {}) {
      const url = vars.REDIS_URL?.replace("STAND-IN", `127.0.0.1:${standIn.redis.port}`);
      const started = await startWorkerd({
        ...options,
        vars: {
          UPSTASH_REDIS_REST_URL: standIn.url,
          UPSTASH_REDIS_REST_TOKEN: standIn.token,
          REDIS_KEY_PREFIX: PREFIX,
          // Nothing here is about time-outs, and the machine may be busy.
          REDIS_TIMEOUT: 30000,
          // What a test counts are commands of its own requests, not those that send counts some seconds after.
          RATE_LIMIT_METRICS: false,
          ...vars,
          ...(url && { REDIS_URL: url }),
        },
      });
      limiters.push(started);
      return started;
    },
    /** Ends the limiters and forgets everything that Redis holds. */
    async reset() {
      await Promise.all(limiters.splice(0).map((limiter) => limiter.stop()));
      await standIn.reset();
    },
    async stop() {
      await this.reset();
      await standIn.stop();
    },
  };
}

/** One request of a caller; the answer's status. */
export async function ask(limiter, caller, path = "/", agent = undefined) {
  const options = { path, headers: { "CF-Connecting-IP": caller } };
  if (agent) options.agent = agent;
  const { status } = await send(limiter.url, options);
  return status;
}

/** What a quota's state in Redis says is consumed. `key`: without the prefix. */
export async function consumed(redis, key) {
  const text = (await redis.get(PREFIX + key)) ?? "absent";
  const [tag, width, , third, list] = text.split(":");
  switch (tag) {
    case "sw": return list.split(",").reduce((sum, item) => sum + Number(item.split("=")[1]), 0);
    case "tb": return Math.ceil(Number(third) / Number(width));
    case "fw": return Number(third);
  }
  throw new Error(`no state: ${text}`);
}

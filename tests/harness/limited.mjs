/**
 * Starts limiters that share one Redis through one stand-in for Upstash, for tests of shared limits.
 */

import assert from "node:assert/strict";
import { cost } from "../upstash/cost.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";
import { CALLER } from "./fixtures.mjs";
import { send } from "./request.mjs";
import { startWorkerd } from "./workerd.mjs";

/** REDIS_KEY_PREFIX of the tests. */
export const PREFIX = "t:";

/** A window in seconds that is less than half over, so that no boundary is near. Fixed windows are aligned to the epoch. */
export const WINDOW = [86_400, 100_000, 130_000].find((seconds) => (Date.now() / 1000) % seconds < seconds / 2) ?? 10 ** 7;

/** Variables with which a limiter calls the stand-in's Redis directly over TCP. */
export const OVER_TCP = { UPSTASH_REDIS_REST_URL: "", UPSTASH_REDIS_REST_TOKEN: "", REDIS_URL: "redis://STAND-IN" };

/** A failure that proves that Redis has decided nothing, so everything that memory admits meanwhile is backlog. */
export const DOWN = { kind: "status", status: 400, body: `{"error":"OOM command not allowed when used memory > 'maxmemory'."}` };

/**
 * Starts a stand-in with its own Redis, and returns functions that start limiters on it.
 *
 * @param {object} [options] options of the stand-in
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
    /** Starts a limiter and loads its script, with a request of a caller that no test uses. */
    async warm(vars, options) {
      const started = await this.limiter(vars, options);
      assert.equal(await ask(started, "192.0.2.250"), 200);
      return started;
    },
    /** Counts the commands billed and the HTTP requests while `work` runs. */
    cost: (work) => cost(standIn, work),
    /** Sends one request. Returns its status and the commands and HTTP requests that it cost, e.g. "200 3 1". */
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
          // A busy machine must not cause a time-out.
          REDIS_TIMEOUT: 30000,
          // Tests count the commands of their own requests, not those that flush metrics some seconds later.
          RATE_LIMIT_METRICS: false,
          ...vars,
          ...(url && { REDIS_URL: url }),
        },
      });
      limiters.push(started);
      return started;
    },
    /** Stops the limiters and removes all data from Redis. */
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

/** Sends one request of a caller and returns the answer's status. */
export async function ask(limiter, caller, path = "/", agent = undefined) {
  const options = { path, headers: { "CF-Connecting-IP": caller } };
  if (agent) options.agent = agent;
  const { status } = await send(limiter.url, options);
  return status;
}

/** Returns the units that a quota's state in Redis counts as consumed. `key` has no prefix. */
export async function consumed(redis, key) {
  const text = (await redis.get(PREFIX + key)) ?? "absent";
  const [tag, width, , third, list] = text.split(":");
  switch (tag) {
    case "sw": return list.split(",").reduce((sum, item) => sum + Number(item.split("=")[1]), 0);
    case "tb": return Math.ceil(Number(third) / Number(width));
    case "fw": return Number(third);
  }
  throw new Error(`the key ${key} does not hold a quota's state: ${text}`);
}

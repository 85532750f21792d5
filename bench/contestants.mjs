/** The contestants of the bench: how each is configured, and which answers and costs show that it does what its row says. */

import assert from "node:assert/strict";
import { send } from "../tests/harness/request.mjs";
import { BODY } from "./origin.mjs";

/** So high that nobody is denied. The bench measures decisions, not what follows a denial. */
const LIMIT = 100_000;
const WINDOW_S = 60;

/** Distinct callers that take turns. */
const CALLERS = 1000;

const HOUR_S = 3600;

/** Units that an isolate takes at once, in the row with leases. */
const LEASE = 100;

/** How often Redis is asked again about a remembered denial in a number of seconds: every 10 s, counted from up to 1 s before the stretch. */
const rechecksIn = (seconds) => Math.floor((seconds + 1) / 10);

/** Denials are recorded in batches: one every 3 s, at the latest this long after the denials began, and with at most so many commands. */
const RECORDED_MS = 3500;
const batchesIn = (seconds) => Math.ceil(seconds / 3) + 1;
const MAX_COMMANDS_PER_BATCH = 11;

/**
 * How many commands for counts may come on top of the decisions in a stretch. All limiters send their counts meanwhile, also those that
 * are not measured at the moment: a command each, and now and then one that folds the counts.
 */
const MAX_COUNT_COMMANDS = 20;
const near = (cost) => (number, { requests }) => number >= cost && (number - cost) * requests <= MAX_COUNT_COMMANDS;

/** The address of one of the callers that take turns, and of a round's only caller. */
const oneOf = (number) => `10.0.${number >> 8}.${number & 255}`;
const onlyCaller = (round) => `10.1.${round >> 8}.${round & 255}`;

const ADDRESSES = Array.from({ length: CALLERS }, (_, number) => oneOf(number));
const many = () => ADDRESSES;

const PEER_VARS = { LIMIT: String(LIMIT), WINDOW_MS: String(WINDOW_S * 1000) };
const ONE_QUOTA = { RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW_S}`, RATE_LIMIT_IP: "off" };
const TWO_QUOTAS = { RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW_S}`, RATE_LIMIT_IP: `${LIMIT},${HOUR_S}` };

const GREETING = { status: 200, has: ["Hello World!"] };
const LIMITS = ["X-RateLimit-Limit: 100000\r\n", "X-RateLimit-Remaining: ", "X-RateLimit-Reset: "];
const HONO_LIMITS = ["RateLimit-Limit: 100000\r\n", "RateLimit-Remaining: ", "RateLimit-Reset: "];
const COUNTED = { status: 200, has: [...LIMITS, '"policies":["general"]'] };
const FROM_MEMORY = "X-RateLimit-Store: memory";
const GENERAL = { ...COUNTED, lacks: [FROM_MEMORY] };
const BOTH = { ...GENERAL, has: [...LIMITS, '"general"', '"ip"'] };

/** The rows that are measured again in front of an origin, and the headers that then show that the contestant limits. */
const FORWARDING = {
  js: [],
  "js-floor": LIMITS,
  "upstash-ratelimit": LIMITS,
  "hono-rate-limiter": HONO_LIMITS,
  memory: LIMITS,
  "one-quota": LIMITS,
  "two-quotas": LIMITS,
};

const PREFIX = "forward-";

/** The name of the contestant's row that forwards, from the name of either row. */
export const forwarding = (name) => PREFIX + answering(name);

/** The name of the contestant's row that answers itself, from the name of either row. */
export const answering = (name) => (name.startsWith(PREFIX) ? name.slice(PREFIX.length) : name);

/**
 * @typedef {object} Contestant
 * @property {string} name the name in `--only`
 * @property {string} title the title in the tables
 * @property {boolean} forwards whether it forwards to the origin. Otherwise it answers itself
 * @property {number} [afterwards] for how many ms it still works after its last answer
 * @property {string} worker its program: a folder in `bench/build`, or `edge-limiter`
 * @property {boolean} upstash whether it counts in Upstash
 * @property {Record<string, unknown>} vars
 * @property {(round: number) => string[]} callers
 * @property {object} expected what every answer has to contain, see `load`
 * @property {Record<string, (number: number, stretch: object) => boolean>} [costs] checks of `roundTrips` and `billed` per decision
 * @property {(server: object, caller: string) => Promise<void>} [prepare] runs before each measured stretch
 * @property {(health: object) => string | undefined} [refuses] why the row cannot be measured, read from the limiter's health
 */

/** @returns {Contestant[]} in the order of the tables */
export function contestants({ requests }) {
  const rows = [
    { name: "js", title: "bare Worker, JavaScript", worker: "js-bare", callers: many, expected: GREETING },
    { name: "rust", title: "hello-world, Rust", worker: "rust-hello", callers: many, expected: GREETING },
    {
      name: "js-floor", title: "minimal limiter, JavaScript", worker: "js-floor", upstash: true,
      vars: PEER_VARS, callers: many, expected: COUNTED, costs: { roundTrips: near(1) },
    },
    {
      name: "rust-floor", title: "minimal limiter, Rust", worker: "rust-floor", upstash: true,
      vars: PEER_VARS, callers: many, expected: COUNTED, costs: { roundTrips: near(1) },
    },
    {
      name: "upstash-ratelimit", title: "@upstash/ratelimit, one quota", worker: "upstash-ratelimit", upstash: true,
      vars: PEER_VARS, callers: many, expected: COUNTED, costs: { roundTrips: near(1) },
    },
    {
      name: "hono-rate-limiter", title: "hono-rate-limiter, memory", worker: "hono-rate-limiter",
      vars: PEER_VARS, callers: many,
      expected: { status: 200, has: [...HONO_LIMITS, '"policies":["general"]'] },
    },
    { name: "memory", title: "edge-limiter, memory, one quota", vars: ONE_QUOTA, callers: many, expected: GENERAL },
    {
      name: "one-quota", title: "edge-limiter, one quota", upstash: true,
      vars: ONE_QUOTA, callers: many, expected: GENERAL, costs: { roundTrips: near(1), billed: near(3) },
    },
    {
      name: "two-quotas", title: "edge-limiter, two quotas", upstash: true,
      vars: TWO_QUOTAS, callers: many, expected: BOTH, costs: { roundTrips: near(1), billed: near(4) },
    },
    {
      name: "remembered-denial", title: "edge-limiter, remembered denial", upstash: true,
      vars: { ...TWO_QUOTAS, RATE_LIMIT_GENERAL: `1,${HOUR_S}` }, callers: (round) => [onlyCaller(round)],
      expected: { status: 429, has: ["Retry-After: ", '"type":"general"'], lacks: [FROM_MEMORY] },
      costs: {
        roundTrips: (number, { seconds, requests }) => number * requests <= rechecksIn(seconds) + batchesIn(seconds) + MAX_COUNT_COMMANDS,
        billed: (number, { seconds, requests }) => number * requests <= 2 * rechecksIn(seconds) + MAX_COMMANDS_PER_BATCH * batchesIn(seconds) + MAX_COUNT_COMMANDS,
      },
      afterwards: RECORDED_MS,
      async prepare(server, caller) {
        for (const status of [200, 429]) assert.equal((await ask(server, caller)).status, status);
      },
    },
    {
      name: "lease", title: `edge-limiter, one quota, lease of ${LEASE}`, upstash: true,
      vars: { ...ONE_QUOTA, RATE_LIMIT_GENERAL: `${Math.max(10_000, 2 * requests)},60`, RATE_LIMIT_POLICIES: { general: { lease: LEASE } } },
      callers: (round) => [onlyCaller(round)],
      expected: { status: 200, has: ["X-RateLimit-Remaining: ", '"policies":["general"]'], lacks: [FROM_MEMORY] },
      // More round trips would mean that it leases nothing.
      costs: { roundTrips: (number) => number < 0.5 },
      refuses: ({ status }) => (status === "misconfigured" ? "this edge-limiter does not take the option `lease`" : undefined),
    },
    {
      name: "fallback", title: "edge-limiter, two quotas, breaker open", upstash: true,
      // A refused token opens the breaker at the first failure, and for the longest wait, which is days with these attempts.
      vars: { ...TWO_QUOTAS, UPSTASH_REDIS_REST_TOKEN: "refused", REDIS_MAX_RECONNECT_ATTEMPTS: "20" },
      callers: many, expected: { status: 200, has: [FROM_MEMORY, '"general"', '"ip"'] }, costs: { roundTrips: near(0), billed: near(0) },
      async prepare(server, caller) {
        await ask(server, caller);
        assert.equal((await health(server)).breaker, "open");
      },
    },
  ];
  const forwarders = rows.filter(({ name }) => name in FORWARDING).map((row) => ({
    ...row,
    name: forwarding(row.name),
    forwards: true,
    expected: { status: 200, has: [...FORWARDING[row.name], BODY], lacks: [FROM_MEMORY] },
  }));
  const defaults = { worker: "edge-limiter", forwards: false, upstash: false, vars: {}, costs: {}, prepare: async () => {} };
  return [...rows, ...forwarders].map((row) => ({ ...defaults, ...row }));
}

const ask = (server, caller) => send(server.url, { headers: { "CF-Connecting-IP": caller } });

/** The health that an edge-limiter reports. */
export async function health(server) {
  return (await send(server.url, { path: "/_limiter/health" })).json();
}

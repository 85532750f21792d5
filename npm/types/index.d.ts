/** Receives each background promise, so that the platform keeps the request's context alive until the promise settles. */
export type WaitUntil = (promise: Promise<unknown>) => void;

/** The options of `createLimiter`. An unknown option or a value out of range throws `bad_argument`. */
export interface LimiterOptions {
  /**
   * The variables of the configuration (docs/configuration.md). Default: the platform's own, which are `process.env` or, on
   * Cloudflare, `env` of `cloudflare:workers`. They are read once, at the limiter's first call.
   */
  env?: Readonly<Record<string, unknown>>;
  /**
   * The application's own client: of `ioredis` (5 or 6; `Redis` or `Cluster`), of `redis` (5 or 6; `createClient`, `createClientPool`,
   * `createCluster` or `createSentinel`), or of `@upstash/redis`. It takes the place of the Redis that variables name. Variables about the use of
   * Redis, such as `REDIS_TIMEOUT` and `REDIS_KEY_PREFIX`, stay in force. The limiter never closes the client. A client with `keyPrefix` or
   * `stringNumbers`, or a cluster with `enableAutoPipelining`, throws `bad_argument`. Default: the Redis that variables name, or memory.
   */
  redis?: ApplicationClient;
  /**
   * Keeps background work alive after the response. Default: the platform's own `waitUntil`, if the limiter finds it. Node, Deno and Bun need none. On
   * other platforms a call without one throws `no_wait_until`.
   */
  waitUntil?: WaitUntil;
  /**
   * How many proxies in front of this server add an entry to `X-Forwarded-For`, 0 to 32. The caller's address is the nth entry from the
   * right. Default: 0, which means the address of the connection. Ignored where the platform sets a header with the address,
   * as Cloudflare and Vercel do. Setting both this and `CLIENT_IP_HEADER` is an error.
   */
  trustProxy?: number;
}

/** A client of `ioredis`, `redis` or `@upstash/redis`, described by its methods, so that any version of a package fits. */
export type ApplicationClient =
  | { call(command: string, ...args: never[]): unknown; sendCommand(...args: never[]): unknown; status: string }
  | { sendCommand(...args: never[]): unknown; connect(): unknown }
  | { pipeline(...args: never[]): unknown; evalsha(...args: never[]): unknown };

/** The options of one call. */
export interface CallOptions {
  /** Keeps this call's background work alive. Default: `waitUntil` of `LimiterOptions`. */
  waitUntil?: WaitUntil;
  /** The address of the connection, as the server knows it: `info.remoteAddr.hostname` in Deno, `server.requestIP(request).address` in Bun. */
  address?: string;
}

/** The verdict on a request. */
export interface Verdict {
  /** Whether the request is admitted. */
  readonly allowed: boolean;
  /** The policy that decided: the one that denies, otherwise the one with the smallest remaining share. Absent if no quota was checked. */
  readonly policy?: string;
  /** How many units the policy admits in its window. */
  readonly limit?: number;
  /** How many units of the limit are left. */
  readonly remaining?: number;
  /** When all units are available again or, after a denial, when a request can be admitted again. In ms since the epoch. */
  readonly reset?: number;
  /** Whole seconds until a request can be admitted again. Absent if the request is admitted, or if waiting does not help. */
  readonly retryAfter?: number;
  /** Whether a block denies the request: the policy's own, an operator's, or an escalation's. */
  readonly blocked: boolean;
  /** Why no quota was checked: `allowlist`, `bypass` or `disabled`. Absent if quotas were checked. */
  readonly exempt?: string;
  /** Whether this process's memory decided in place of Redis, because Redis fails. */
  readonly degraded: boolean;
  /** The status of `response`; 200 if the request is admitted. */
  readonly status: number;
  /** The limiter's headers. Set them on the application's response, or use `decorate`. `response` has them already. */
  readonly headers: Readonly<Record<string, string>>;
  /**
   * The answer to a request that is not admitted: 429; 503, 414 or 400 (docs/troubleshooting.md); or, for a request to `/_limiter`, the
   * control plane's answer. `undefined` if the request is admitted. Each access makes a new `Response`.
   */
  readonly response: Response | undefined;
  /**
   * Adds the limiter's headers to the application's response, as a Worker in front of the application would. A 429 or 503 of the application
   * keeps its own headers. If pages of other origins may read the response (CORS), the limiter's headers are exposed to them.
   */
  decorate(response: Response): Response;
}

/** The options of `check`. */
export interface CheckOptions extends CallOptions {
  /** How many units the check takes, 0 to 2^32 - 1. With 0 it takes none and only reports. Default: 1. */
  cost?: number;
}

/** The result of a check of one policy. Fields that `Verdict` also has mean the same. */
export interface CheckResult {
  readonly allowed: boolean;
  readonly policy: string;
  /** In units. */
  readonly limit: number;
  /** In units. */
  readonly remaining: number;
  /** In ms since the epoch. */
  readonly reset: number;
  /** In whole seconds. */
  readonly retryAfter?: number;
  readonly blocked: boolean;
  readonly exempt?: string;
  /** Whether the policy would have denied the check, but is in shadow mode and denies nobody. */
  readonly shadow: boolean;
}

/** What a caller has used of a policy. Times are in ms since the epoch. */
export interface Usage {
  /** Who shares these counters: everything that uses the same Redis (`shared`), or this process only (`isolate`). */
  readonly scope: "shared" | "isolate";
  readonly policy: string;
  /** The caller's key, in the form that lists show. */
  readonly caller: string;
  /** In units. */
  readonly limit: number;
  /** In units. */
  readonly used: number;
  /** In units. */
  readonly remaining: number;
  /** When all units are available again. */
  readonly reset: number;
  /** When the policy's block of the caller ends. Absent if it does not block the caller. */
  readonly blockedUntil?: number;
  /** When a request of the caller can be admitted again. Absent if one can be now. */
  readonly retryAt?: number;
}

/** The state of the limiter, as `GET /_limiter/health` reports it (docs/control-plane.md). */
export interface Health {
  /** `degraded`: Redis, the key set, records or blocks fail. `misconfigured`: the configuration has errors. */
  readonly status: "ok" | "degraded" | "misconfigured";
  /** Where counters are. `upstash`: a Redis over REST. `redis`: over TCP, or through the application's client. */
  readonly store: "upstash" | "redis" | "memory";
  /** `closed`: Redis is called. `open`: it fails, and is not called for a time. `half-open`: one call probes it. `null`: there is no Redis. */
  readonly breaker: "closed" | "open" | "half-open" | null;
  readonly version: string;
  /** How scripts are sent to Redis: with Upstash's flag line, or without it to a server that refuses the line. Absent without a Redis. */
  readonly script?: "flagged" | "plain";
  /** The errors of the configuration, and all other details that `GET /_limiter/health` reports with a token. */
  readonly [detail: string]: unknown;
}

/** An event of the log (docs/control-plane.md lists the fields). Times are in ms since the epoch. */
export interface RateLimitEvent {
  readonly [field: string]: unknown;
}

/** An event that the application itself records in the log. */
export interface NewRateLimitEvent {
  /** The caller: an address, `user:NAME`, `id:NAME` or another name. */
  identifier: string;
  /** The name of a configured policy. */
  policy: string;
  /** The method of the request. Default: none. */
  method?: string;
  /** The path of the request. Default: none. */
  path?: string;
}

/** An address or range that is blocked everywhere. */
export interface BlockedIP {
  /** The address or range, in its canonical form. */
  readonly ip: string;
  /** When the block ends, in ms since the epoch. Absent: it lasts until lifted. */
  readonly until?: number;
  /** When the block began, in ms since the epoch. */
  readonly since: number;
  /** Who blocked it: an operator (or the application), or the limiter after many denials (`RATE_LIMIT_ESCALATION`). */
  readonly by: "operator" | "escalation";
  readonly reason?: string;
}

/** A caller that was denied often. */
export interface SuspiciousIP {
  /** The caller's key, in the form that lists show. */
  readonly ip: string;
  /** The number of denials in this hour and the one before. */
  readonly denied: number;
  /** The same number for each policy. */
  readonly policies: Readonly<Record<string, number>>;
}

/**
 * The application's own keys, and events and blocks. The API is the same over Redis and over this process's memory. The application's keys are
 * at `{prefix}app/{key}` with the configured prefix, apart from the limiter's own. While Redis does not answer, calls reject with
 * `store_unavailable`. A key that is empty, longer than 512 bytes or has control characters rejects with `bad_key`.
 */
export interface RedisClient {
  /** Returns the value of a key, or `null`. */
  get(key: string): Promise<string | null>;
  /** Sets a key. `ex` is the number of seconds until it expires, 1 to 315,360,000 (ten years). Default: it never expires. */
  set(key: string, value: string | number, options?: { ex?: number }): Promise<"OK">;
  /**
   * Adds 1 to a whole number and returns it, exact up to 2^53. A key that does not exist counts as 0. Rejects with `not_a_number` if the value is
   * not a whole number. The call is not repeated if its answer is lost.
   */
  incr(key: string): Promise<number>;
  /** Lets a key expire in 1 to 315,360,000 seconds. Returns whether the key exists. */
  expire(key: string, seconds: number): Promise<boolean>;
  /** Deletes keys. Returns how many of them existed. */
  del(...keys: string[]): Promise<number>;

  /** Records an event in the log. */
  logRateLimitEvent(event: NewRateLimitEvent): Promise<void>;
  /** Returns the newest events, the newest first. `limit`: 1 to 1000. Default: 100. */
  getRateLimitEvents(limit?: number): Promise<RateLimitEvent[]>;
  /** Deletes events that are older than a number of milliseconds, rounded up to whole seconds. Returns how many it deleted. */
  clearOldRateLimitEvents(olderThanMs: number): Promise<number>;
  /** Blocks an address or a range (CIDR) everywhere, for 1 to 31,622,400 seconds (366 days). Without `seconds` the block lasts until lifted. */
  blockIP(ip: string, seconds?: number, reason?: string): Promise<void>;
  /** Returns whether an address or range is blocked everywhere. */
  isIPBlocked(ip: string): Promise<boolean>;
  /** Lifts a block. Returns whether there was one. */
  unblockIP(ip: string): Promise<boolean>;
  /** Returns all addresses and ranges that are blocked everywhere. */
  getBlockedIPs(): Promise<BlockedIP[]>;
  /** Returns the callers that were denied most, the most denied first. `limit`: 1 to 1000. Default: 10. */
  getSuspiciousIPs(limit?: number): Promise<SuspiciousIP[]>;
}

/** A limiter within this process. A call that it refuses rejects with a `LimiterError`. */
export interface Limiter {
  /**
   * Decides a request and charges it to its quotas, as the Worker does. If Redis fails, `on_store_failure` of the policies decides: by
   * default, this process's memory.
   */
  limit(request: Request, options?: CallOptions): Promise<Verdict>;
  /** Charges a use of one policy to the caller that the application names: an address, `user:NAME`, `id:NAME` or another name. */
  check(policy: string, identifier: string, options?: CheckOptions): Promise<CheckResult>;
  /** Reports what a caller has used of a policy, and charges nothing. `caller` is named as for `check`, or by a key that lists show. */
  usage(policy: string, caller: string, options?: CallOptions): Promise<Usage>;
  /** Resets a caller's quota, and lifts the policy's block of the caller. `caller` is named as for `usage`. */
  reset(policy: string, caller: string, options?: CallOptions): Promise<void>;
  /** Reports the state of the limiter. */
  health(options?: CallOptions): Promise<Health>;
  /**
   * Waits for calls under way, then closes the connections to Redis that the limiter itself opened, unless another limiter with the same
   * variables uses them. A later call opens them again, and so may records that are still to be written.
   */
  close(): Promise<void>;
  /** Returns the control plane's answer to a request to `/_limiter` or a path below it (docs/control-plane.md), and a 404 to any other. */
  controlPlane(request: Request, options?: CallOptions): Promise<Response>;
  /**
   * Does the work of the Worker's schedule: folds counts and tidies records. Call it every five minutes in one process, unless a Worker on
   * the same Redis does it.
   */
  tend(options?: CallOptions): Promise<void>;
  /** The application's own keys, and events and blocks. */
  readonly redis: RedisClient;
}

/**
 * Creates a limiter within this process. Limiters with the same configuration share counters and memory. A process can have 100
 * different configurations; the first call of a limiter with another one rejects with `refused`.
 */
export function createLimiter(options?: LimiterOptions): Limiter;

/** Why a call is refused. */
export type ErrorCode =
  /** The platform ends background work with the request, and the call has no `waitUntil`. */
  | "no_wait_until"
  /** There is no source for the caller's address that clients cannot forge: pass `address`, or set `trustProxy` or `CLIENT_IP_HEADER`. */
  | "no_address"
  /** No policy with this name is configured. */
  | "unknown_policy"
  /** A caller, address or range is not valid. */
  | "bad_identifier"
  /** A key is empty, longer than 512 bytes, or has control characters. */
  | "bad_key"
  /** Another argument or option is not valid. */
  | "bad_argument"
  /** The value of the key is not a whole number. */
  | "not_a_number"
  /** The limiter does not do what was asked; the message says why. */
  | "refused"
  /** Redis does not answer. The message says whether the change took effect in this process. */
  | "store_unavailable";

/** The error of a call that is refused. The message says what to do. */
export class LimiterError extends Error {
  readonly name: "LimiterError";
  readonly code: ErrorCode;
}

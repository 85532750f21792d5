/** A background promise is passed to this, so that the platform keeps the request's context alive until it settles. */
export type WaitUntil = (promise: Promise<unknown>) => void;

export interface LimiterOptions {
  /**
   * The variables of the configuration (docs/configuration.md). Default: the platform's own, `process.env` or, on
   * Cloudflare, `env` of `cloudflare:workers`. Read once, at the first use.
   */
  env?: Readonly<Record<string, unknown>>;
  /**
   * A client that the application has: of `ioredis` (5 or 6; `Redis` or `Cluster`), of `redis` (5 or 6; `createClient`, `createClientPool`,
   * `createCluster` or `createSentinel`), or of `@upstash/redis`. It comes before all variables that name a Redis; those that say how
   * it is dealt with hold. The limiter never closes it. It must have neither `keyPrefix` nor `stringNumbers`.
   */
  redis?: ApplicationClient;
  /**
   * What keeps background work alive. Default: the platform's own, where it has one. Node, Deno and Bun need none. Elsewhere a
   * call without one throws `no_wait_until`.
   */
  waitUntil?: WaitUntil;
  /**
   * How many proxies in front of this server add to `X-Forwarded-For`, 0 to 32; the caller's address is that many entries from
   * the right, counting the connection's own. Default: 0, the address of the connection. Used where that address is known:
   * with `edge-limiter/node`, and where `address` is passed.
   */
  trustProxy?: number;
}

/** A client of `ioredis`, `redis` or `@upstash/redis`, by its shape: any version of a package fits. */
export type ApplicationClient =
  | { call(command: string, ...args: never[]): unknown; sendCommand(...args: never[]): unknown; status: string }
  | { sendCommand(...args: never[]): unknown; connect(): unknown }
  | { pipeline(...args: never[]): unknown; evalsha(...args: never[]): unknown };

export interface CallOptions {
  /** As in `LimiterOptions`, for this call. */
  waitUntil?: WaitUntil;
  /** The address of the connection, as the server knows it: `info.remoteAddr.hostname` in Deno, `server.requestIP(request).address` in Bun. */
  address?: string;
}

/** What was decided about a request. */
export interface Verdict {
  /** Whether the request may go ahead. */
  readonly allowed: boolean;
  /** The policy that binds: the one that denies, else the one with the least remaining share. Absent where no quota was asked. */
  readonly policy?: string;
  /** Requests in its window. */
  readonly limit?: number;
  /** Requests that are left in it. */
  readonly remaining?: number;
  /** When the quota is whole again; of a denial, when one request is admitted. In ms since the epoch. */
  readonly reset?: number;
  /** Whole seconds until a request is admitted again. Absent where the request is allowed, or waiting does not help. */
  readonly retryAfter?: number;
  /** Whether a block denies it: its policy's, or an operator's. */
  readonly blocked: boolean;
  /** Why no quota was asked, if none was: `allowlist`, `bypass`, `disabled`. */
  readonly exempt?: string;
  /** Whether this process's memory decided in place of Redis, which is out. */
  readonly degraded: boolean;
  /** The status of `response`; 200 where the request is allowed. */
  readonly status: number;
  /** The limiter's headers: they go on the application's response, and are on `response`. */
  readonly headers: Readonly<Record<string, string>>;
  /**
   * What to answer where the request is not allowed: 429; 503, 414 or 400 (docs/troubleshooting.md); or, for a request to `/_limiter`, the
   * control plane's answer. Made anew at each access.
   */
  readonly response: Response | undefined;
  /**
   * The application's response with the limiter's headers, as a Worker in front of the application would send it: its own 429 and 503
   * keep their headers, and a response that pages of other origins may read names the limiter's headers to them.
   */
  decorate(response: Response): Response;
}

export interface CheckOptions extends CallOptions {
  /** What it costs, 0 to 2^32 - 1. 0 only looks. Default: 1. */
  cost?: number;
}

/** What a check of one quota came to. */
export interface CheckResult {
  readonly allowed: boolean;
  readonly policy: string;
  readonly limit: number;
  readonly remaining: number;
  /** In ms since the epoch, as in `Verdict`. */
  readonly reset: number;
  /** In seconds, as in `Verdict`. */
  readonly retryAfter?: number;
  readonly blocked: boolean;
  readonly exempt?: string;
  /** A policy in shadow mode, which denies nobody, would have denied it. */
  readonly shadow: boolean;
}

/** Where a caller stands in a quota. Times are in ms since the epoch. */
export interface Usage {
  /** Who shares these figures: all that share the Redis, or this process alone. */
  readonly scope: "shared" | "isolate";
  readonly policy: string;
  /** The caller in the form that lists show. */
  readonly caller: string;
  readonly limit: number;
  readonly used: number;
  readonly remaining: number;
  readonly reset: number;
  readonly blockedUntil?: number;
  readonly retryAt?: number;
}

export interface Health {
  readonly status: "ok" | "degraded" | "misconfigured";
  /** `redis`: over TCP, or by the application's client. */
  readonly store: "upstash" | "redis" | "memory";
  readonly breaker: "closed" | "open" | "half-open" | null;
  readonly version: string;
  /** How scripts are sent to Redis: with the flag line of Upstash, or without, to servers that refuse it. Absent: in memory. */
  readonly script?: "flagged" | "plain";
  /** The errors of the configuration, and what else `GET /_limiter/health` says with a token. */
  readonly [detail: string]: unknown;
}

/** An event of the log. Times are in ms since the epoch. */
export interface RateLimitEvent {
  readonly [field: string]: unknown;
}

/** What the application records itself in the log of events. */
export interface NewRateLimitEvent {
  /** The caller: an address, `user:NAME`, `id:NAME` or another name. */
  identifier: string;
  /** A policy that is configured. */
  policy: string;
  /** The method of the request. Default: none. */
  method?: string;
  /** The path of the request. Default: none. */
  path?: string;
}

export interface BlockedIP {
  /** The address or range, in its canonical form. */
  readonly ip: string;
  /** In ms since the epoch. Absent: until lifted. */
  readonly until?: number;
  /** In ms since the epoch. */
  readonly since: number;
  readonly by: "operator" | "escalation";
  readonly reason?: string;
}

export interface SuspiciousIP {
  /** The caller in the form that lists show. */
  readonly ip: string;
  /** Denials in this hour and the one before. */
  readonly denied: number;
  /** The same by policy. */
  readonly policies: Readonly<Record<string, number>>;
}

/**
 * One API whichever store is behind it, Redis or this process's memory. The application's keys live beneath the prefix of
 * the configuration (`{prefix}app/{key}`), apart from the limiter's own. A Redis that does not answer rejects with
 * `store_unavailable`.
 */
export interface RedisClient {
  /** The value, or `null`. */
  get(key: string): Promise<string | null>;
  /** `ex`: seconds until it expires, 1 or more; default: never. */
  set(key: string, value: string | number, options?: { ex?: number }): Promise<"OK">;
  /**
   * Adds 1 to a whole number (absent: 0) and returns it, exact up to 2^53. Rejects with `not_a_number` if the value is none. Not repeated after a lost
   * answer.
   */
  incr(key: string): Promise<number>;
  /** Whether the key exists, and now expires in so many seconds. */
  expire(key: string, seconds: number): Promise<boolean>;
  /** How many of the keys existed. */
  del(...keys: string[]): Promise<number>;

  logRateLimitEvent(event: NewRateLimitEvent): Promise<void>;
  /** The newest first. `limit`: 1 to 1000. Default: 100. */
  getRateLimitEvents(limit?: number): Promise<RateLimitEvent[]>;
  /** Deletes events older than so many milliseconds; how many there were. */
  clearOldRateLimitEvents(olderThanMs: number): Promise<number>;
  /** Blocks an address or a range (CIDR) everywhere, for so many seconds; without: until lifted. */
  blockIP(ip: string, seconds?: number, reason?: string): Promise<void>;
  isIPBlocked(ip: string): Promise<boolean>;
  /** Whether there was a block. */
  unblockIP(ip: string): Promise<boolean>;
  getBlockedIPs(): Promise<BlockedIP[]>;
  /** Those denied most first. `limit`: 1 to 1000. Default: 10. */
  getSuspiciousIPs(limit?: number): Promise<SuspiciousIP[]>;
}

export interface Limiter {
  /** Decides a request and counts it, as the Worker does. */
  limit(request: Request, options?: CallOptions): Promise<Verdict>;
  /** Decides a use of one policy by a caller of the application's: an address, `user:NAME`, `id:NAME` or another name. */
  check(policy: string, identifier: string, options?: CheckOptions): Promise<CheckResult>;
  /** Where a caller stands, without counting. `caller` as for `check`, or a key that lists show. */
  usage(policy: string, caller: string, options?: CallOptions): Promise<Usage>;
  /** Gives a caller its quota back, and lifts the policy's block. */
  reset(policy: string, caller: string, options?: CallOptions): Promise<void>;
  health(options?: CallOptions): Promise<Health>;
  /**
   * Waits for calls under way and ends the connections to Redis that the limiter has opened itself, unless another limiter of like
   * variables uses them. A later call opens them anew, and records that are still to be written may.
   */
  close(): Promise<void>;
  /** The control plane's answer to a request to `/_limiter` or beneath it (docs/control-plane.md); 404 for any other. */
  controlPlane(request: Request, options?: CallOptions): Promise<Response>;
  /** Does what the Worker's schedule does: folds counts, tidies lists. Call it every five minutes in one process, or leave it to a Worker on the same Redis. */
  tend(options?: CallOptions): Promise<void>;
  readonly redis: RedisClient;
}

/** A limiter of this process. Limiters of like configurations share counters and memory; of different ones, a process has up to 100. */
export function createLimiter(options?: LimiterOptions): Limiter;

/** Why a call is refused. */
export type ErrorCode =
  /** The platform ends background work with the request unless it is passed `waitUntil`. */
  | "no_wait_until"
  /** Nothing that a client cannot write says who the caller is. */
  | "no_address"
  /** No policy of that name is configured. */
  | "unknown_policy"
  /** A caller, address or range that cannot be one. */
  | "bad_identifier"
  /** A key that is empty, longer than 512 bytes, or has control characters. */
  | "bad_key"
  /** Another argument or option that is out of its range. */
  | "bad_argument"
  /** The value of the key is no whole number. */
  | "not_a_number"
  /** The limiter refuses it: what the message says. */
  | "refused"
  /** Redis does not answer; the message says whether it took effect in this process. */
  | "store_unavailable";

export class LimiterError extends Error {
  readonly name: "LimiterError";
  readonly code: ErrorCode;
}

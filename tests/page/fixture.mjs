/**
 * Invented answers of the control plane, the same at every call: a shop's limiter on a busy afternoon. With them every view can
 * be tested and photographed without an afternoon's traffic.
 */

const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;

const STEP_MS = { hour: MINUTE_MS, day: 10 * MINUTE_MS, month: DAY_MS };
const STEPS = { hour: 60, day: 144, month: 30 };

const policy = (name, limit, window_seconds, block_seconds = null, more = {}) => ({
  name, algorithm: "sliding-window", limit, window_seconds, burst: null, block_seconds, key: "ip", mode: "enforce", on_store_failure: "memory", lease: null,
  authenticated: null, always: false, ...more,
});

const POLICIES = [
  policy("admin", 300, 60, 300), policy("auth", 30, 60, 600), policy("financial", 20, 60, 900, { on_store_failure: "deny" }),
  policy("general", 120, 60, null, { authenticated: 1000 }), policy("ip", 1000, 3600, null, { always: true }), policy("mfa", 5, 60, 900),
  policy("search", 60, 60, null, { algorithm: "token-bucket", burst: 20, mode: "shadow" }), policy("sensitive", 10, 60, 900),
];
const PREFLIGHT = policy("preflight", 600, 60);

/** Each policy's share of the traffic, and the share of that which is denied. */
const SHARES = [["general", 0.62, 0.008], ["auth", 0.11, 0.16], ["search", 0.15, 0], ["financial", 0.06, 0.03], ["sensitive", 0.04, 0.05], ["mfa", 0.015, 0.12], ["admin", 0.005, 0]];

const USAGE = {
  general: [4210, 2630, 1490, 820, 446, 239, 121, 60, 29, 14], auth: [1130, 702, 401, 260, 189, 150, 128, 113, 101, 92], financial: [640, 311, 118, 44, 19, 9, 5, 3, 2, 1],
  sensitive: [380, 371, 290, 140, 71, 40, 22, 13, 8, 5],
};

const ATTACKERS = [["203.0.113.77", "NL", 64511], ["198.51.100.23", "US", 64500], ["2001:db8:4f::/64", "DE", 64502], ["203.0.113.12", "NL", 64511], ["192.0.2.191", "BR", 64520], ["198.51.100.201", "US", 64500]];
const PATHS = [["POST", "/api/auth/login", "auth"], ["POST", "/api/auth/mfa/verify", "mfa"], ["POST", "/api/payments/gift-card", "financial"], ["GET", "/api/search", "general"], ["POST", "/api/user/password", "sensitive"], ["POST", "/api/auth/register", "auth"]];

/** Returns a random number generator (mulberry32) that yields the same numbers for the same seed. */
function seededRng(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export function series(window, now) {
  const step = STEP_MS[window];
  const count = 2 * STEPS[window];
  const to = Math.ceil(now / step) * step;
  const from = to - count * step;
  const random = seededRng(7);
  const buckets = [];
  for (let at = 0; at < count; at += 1) {
    const wave = 1 + 0.22 * Math.sin(at / (count / 11)) + 0.12 * Math.sin(at / 3.1);
    const attack = Math.exp(-(((at - 0.79 * count) / (0.035 * count)) ** 2));
    const total = Math.round((step / MINUTE_MS) * 940 * wave * (0.93 + 0.14 * random()) * (at < count / 2 ? 0.91 : 1));
    const policies = {};
    let denied = 0;
    for (const [name, share, deniedShare] of SHARES) {
      const asked = Math.round(total * share * (0.9 + 0.2 * random()));
      const refused = Math.round(asked * deniedShare * (name === "auth" ? 0.3 + 11 * attack : 1 + attack));
      policies[name] = { admitted: asked - Math.min(asked, refused), denied: Math.round(refused * 0.4), blocked: Math.round(refused * 0.6), shadow_denied: name === "search" ? Math.round(asked * 0.021) : 0 };
      denied += refused;
    }
    const failing = at >= 0.64 * count && at < 0.66 * count;
    const calls = Math.round(total * 0.71);
    const usage = Object.fromEntries(Object.entries(USAGE).map(([name, numbers]) => [name, numbers.map((number) => Math.round((number * step) / (24 * MINUTE_MS)))]));
    buckets.push({
      at: from + at * step,
      requests: { admitted: total - denied, denied: Math.round(denied * 0.4), blocked: Math.round(denied * 0.6), exempt: Math.round(total * 0.004), unavailable: failing ? Math.round(total * 0.01) : 0 },
      policies, sources: { store: calls, memory: failing ? Math.round(total * 0.2) : 0, lease: Math.round(total * 0.22), remembered: denied },
      calls: { ok: failing ? Math.round(calls * 0.7) : calls, failed: failing ? Math.round(calls * 0.3) : 0 },
      took_ms: Math.round(calls * (11 + 4 * random() + (failing ? 160 : 0) + 6 * attack)), commands: Math.round(calls * 3.4), usage,
    });
  }
  return { window, shared: true, step_ms: step, from, to, buckets };
}

export function eventsAt(now) {
  const random = seededRng(21);
  return Array.from({ length: 120 }, (_, at) => {
    const last = now - 2500 - at * 8400;
    const id = at.toString(16).padStart(16, "0");
    const [caller, country, asn] = ATTACKERS[Math.floor(random() ** 1.6 * ATTACKERS.length)];
    const common = { id, time: last - Math.round(2900 * random()), last, ray: `8f${id.slice(0, 12)}-AMS`, country, asn };
    if (at % 37 === 5) return { ...common, kind: "escalated", caller, policy: "", method: "POST", path: "/api/auth/login", status: 429, count: 1 };
    if (at % 41 === 8) return { ...common, kind: "refused", caller: "192.0.2.66", policy: "admin", method: "GET", path: "/_limiter/events", status: 401, count: 3, ray: null, country: null, asn: null };
    if (at % 29 === 3) return { ...common, kind: "admitted", caller: "192.0.2.50", policy: "general", method: "GET", path: "/api/products/71", status: 200, count: 1, country: "AT", asn: 64530 };
    const [method, path, name] = PATHS[Math.floor(random() ** 2.2 * PATHS.length)];
    return { ...common, kind: "denied", caller, policy: at % 4 === 1 ? "blocked" : name, method, path, status: 429, count: 1 + Math.floor(random() * 140) };
  });
}

const SUSPICIOUS = [
  ["203.0.113.77", { auth: 4127, mfa: 311 }], ["198.51.100.23", { auth: 1920 }], ["2001:db8:4f::/64", { financial: 604, general: 122 }],
  ["203.0.113.12", { auth: 409 }], ["192.0.2.191", { sensitive: 96 }], ["user-0123456789abcdef0123456789abcdef", { general: 61 }],
].map(([caller, policies]) => ({ caller, denied: Object.values(policies).reduce((sum, number) => sum + number, 0), policies }));

const blocksAt = (now) => [
  { target: "203.0.113.77", until: now + 3_100_000, since: now - 500_000, by: "escalation", reason: null },
  { target: "198.51.100.0/24", until: now + 79_000_000, since: now - 7_000_000, by: "operator", reason: "credential stuffing, ticket 4711" },
  { target: "2001:db8:4f::/64", until: null, since: now - 700_000_000, by: "operator", reason: "card testing" },
];

const operationsAt = (now) => [
  { at: now - 7_000_000, who: "admin", address: "192.0.2.10", action: "block", target: "198.51.100.0/24", details: "86400 s: credential stuffing, ticket 4711", outcome: "done" },
  { at: now - 7_030_000, who: "admin", address: "192.0.2.10", action: "block", target: "198.51.100.0/24", details: "86400 s: credential stuffing, ticket 4711", outcome: "isolate" },
  { at: now - 9_000_000, who: "admin", address: "192.0.2.10", action: "lift", target: "192.0.2.191", details: "", outcome: "done" },
  { at: now - 9_010_000, who: "admin", address: "192.0.2.10", action: "lift", target: "192.0.2.191", details: "", outcome: "failed" },
  { at: now - 9_600_000, who: "admin", address: "192.0.2.10", action: "reset", target: "auth 192.0.2.191", details: "", outcome: "done" },
];

/**
 * Answers a call of the control plane. Returns `undefined` for a call that the fixture does not know.
 *
 * @param {string} method
 * @param {string} path beneath `/_limiter/`, with its query
 * @param {number} now
 * @returns {{status: number, json: unknown} | undefined}
 */
export function answer(method, path, now = Date.now()) {
  const { pathname, searchParams } = new URL(path, "http://x/");
  const [first, ...rest] = pathname.slice(1).split("/").map(decodeURIComponent);
  const json = answers(first, rest, searchParams, now);
  if (method !== "GET" || json === undefined) return undefined;
  return { status: 200, json };
}

function answers(first, [second, third], parameters, now) {
  switch (first) {
    case "health": return { status: "ok", store: "upstash", breaker: "closed", version: "0.2.0", errors: [], warnings: [{ variable: "RATE_LIMIT_JWT_AUDIENCE", rule: "unset: a token for anybody is accepted." }] };
    case "policies": return { enabled: true, policies: POLICIES, preflight: PREFLIGHT };
    case "series": return series(parameters.get("window"), now);
    case "suspicious": return { scope: "shared", hours: Number(parameters.get("hours") ?? 1), callers: SUSPICIOUS };
    case "events": return { scope: "shared", events: eventsAt(now), left_out: 0, cursor: null };
    case "operations": return { scope: "shared", operations: operationsAt(now) };
    case "store": return {
      shared: true, keys: { count: 48_211, at: now - 130_000 },
      redis: { at: now - 130_000, memory_used_bytes: 21_400_000, memory_max_bytes: 268_435_456, connected_clients: 14, commands_processed: 81_233_912, keyspace_hits: 61_002_113, keyspace_misses: 9_021_551, evicted_keys: 0, expired_keys: 4_112_090, uptime_seconds: 1_900_000, connected_replicas: 1 },
    };
    case "blocked":
      if (second === undefined) return { scope: "shared", blocked: blocksAt(now), policies: [{ policy: "auth", caller: "198.51.100.23", until: now + 412_000 }, { policy: "mfa", caller: "203.0.113.77", until: now + 700_000 }], cursor: null };
      return { scope: "shared", target: second, blocked: true, until: now + 3_100_000, since: now - 500_000, by: "escalation", reason: null, covered_by: null, ...blocksAt(now).find(({ target }) => target === second) };
    case "usage": {
      const known = POLICIES.find(({ name }) => name === second);
      if (!known) return undefined;
      const used = { auth: 30, mfa: 5, ip: 412, general: 31 }[second] ?? 0;
      const ends = { auth: now + 412_000, mfa: now + 700_000 }[second] ?? null;
      return { scope: "shared", policy: second, caller: third, limit: known.burst ?? known.limit, used, remaining: known.limit - used, reset: now + 41_000, blocked_until: ends, retry_at: ends };
    }
  }
  return undefined;
}

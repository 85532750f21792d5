/**
 * `node bench/sizing.mjs [--callers N] [--write]`: measures how many bytes callers and records take in Redis. Prints Markdown; with
 * `--write` it also replaces the tables in docs/redis.md.
 * The decision script itself writes the states.
 */

import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { Failure, main, root, say } from "../scripts/command.mjs";
import { setup } from "../scripts/setup.mjs";
import { startScript } from "./script.mjs";
import { table, whole } from "./table.mjs";

const DOCUMENT = path.join(root, "docs", "redis.md");

/** The prefix in wrangler.toml. */
const PREFIX = "vibewell:ratelimit:";
/** The start of an hour, and so of every window. */
const NOW = Math.floor(Date.now() / 3_600_000) * 3_600_000;
const CALLERS_AT_ONCE = 2000;

const ipv4 = (caller) => [10, caller >> 16, caller >> 8, caller].map((part) => part & 255).join(".");
const ipv6 = (caller) => `2001:db8:${(caller >> 16).toString(16)}:${(caller & 65535).toString(16)}::/64`;

/** The default policies. */
const general = { name: "general", algorithm: "s", limit: 120, seconds: 60 };
const ip = { name: "ip", algorithm: "s", limit: 1000, seconds: 3600 };
/** The rows: title, a caller's policies, and its number of requests, which are spread evenly over a minute. */
const ROWS = [
  ["sliding window, one request", { policies: [general], requests: 1 }],
  ["sliding window, one request, IPv6", { policies: [general], requests: 1, address: ipv6 }],
  ["sliding window, a request in each of 15 sub-windows", { policies: [general], requests: 15 }],
  ["sliding window, a request in each of all 60", { policies: [general], requests: 60 }],
  ["token bucket", { policies: [{ ...general, algorithm: "t" }], requests: 1 }],
  ["fixed window", { policies: [{ ...general, algorithm: "f" }], requests: 1 }],
  ["`general` and `ip`, one request", { policies: [general, ip], requests: 1 }],
  ["`general` and `ip`, a request a second for a minute", { policies: [general, ip], requests: 60 }],
];

/**
 * @param {number} callers
 * @returns {Promise<string>} a table of Markdown
 */
export async function sizing(callers, report = () => {}) {
  const rows = [];
  for (const [what, { policies, requests, address = ipv4 }] of ROWS) {
    // A new Redis for each row, because the memory that the allocator kept from the last row would be measured too.
    const script = await startScript();
    try {
      const keys = (caller) => policies.map(({ name }) => `${PREFIX}${name}:${address(caller)}`);
      const before = await script.bytes();
      // If callers have many requests, the decisions of all would take minutes. In a token bucket, one unit would be refilled meanwhile. In
      // both cases the script decides for one caller only, and the others get a copy of its state.
      const deciding = requests === 1 && policies[0].algorithm !== "t" ? callers : 1;
      for (let request = 0; request < requests; request++) {
        const now = NOW + Math.floor((request * 60_000) / requests);
        await each(0, deciding, script, (caller) => [decision(script.sha, keys(caller), policies, now, address(caller))]);
      }
      const states = await script.all(keys(0).map((key) => ["GET", key]));
      await each(deciding, callers, script, (caller) => keys(caller).map((key, place) => ["SET", key, String(states[place]), "PX", "3600000"]));
      const bytes = (await script.bytes()) - before;
      if ((await script.callers()) !== callers * policies.length) throw new Failure(`${what}: Redis does not hold ${callers * policies.length} keys, as it should`);
      rows.push([what, whole(policies.length), whole(String(states[0]).length), whole(Math.round(bytes / callers)), `${whole(Math.round((bytes / callers) * 1e6 / 1024 ** 2))} MiB`]);
      report(rows.at(-1).join(", "));
    } finally {
      await script.stop();
    }
  }
  return table(["callers' requests", "keys", "bytes of the first state", "bytes a caller", "a million callers"], rows);
}

/** Records up to their bounds: title, maximum number, and the commands that write one record in the limiter's own form. */
const RECORDS = [
  ["events", 5000, (number) => [["ZADD", `${PREFIX}events`, NOW + number, event(number)]]],
  ["blocked addresses, each with a reason of 30 characters", 100_000, (number) => [
    ["SET", `${PREFIX}blocked:${ipv4(number)}`, block(), "PX", "86400000"], ["ZADD", `${PREFIX}blocked_ips`, NOW + number, ipv4(number)],
  ]],
  ["blocked ranges, the same", 10_000, (number) => [["HSET", `${PREFIX}blocked_ranges`, `10.${number >> 8}.${number & 255}.0/24`, block()]]],
  ["callers denied, of 25 hours", 250_000, (number) => [["ZADD", `${PREFIX}suspicious:${Math.floor(number / 10_000)}`, 1 + (number % 99), `general ${ipv4(number)}`]]],
];

const block = () => JSON.stringify({ until: NOW + 86_400_000, since: NOW, by: "operator", reason: "password guessing, ticket 4711" });

const event = (number) => JSON.stringify({
  first: NOW, last: NOW + number, kind: "denied", caller: ipv4(number), policy: "general", method: "POST", path: "/api/auth/callback/credentials", status: 429, count: 17,
  ray: "8f0a1b2c3d4e5f60", country: "DE", asn: 3320,
});

/** @returns {Promise<string>} a table of Markdown */
export async function records(share = 1, report = () => {}) {
  const rows = [];
  for (const [what, max, commands] of RECORDS) {
    const script = await startScript();
    try {
      const [count, before] = [Math.ceil(max * share), await script.bytes()];
      await each(0, count, script, (number) => commands(number).map((words) => words.map(String)));
      const bytes = (await script.bytes()) - before;
      rows.push([what, whole(count), whole(Math.round(bytes / count)), `${((bytes / 1024 ** 2)).toFixed(1)} MiB`]);
      report(rows.at(-1).join(", "));
    } finally {
      await script.stop();
    }
  }
  return table(["records", "at most", "bytes each", "all"], rows);
}

/** Sends the commands for each caller from number `from` up to `to`. */
async function each(from, to, script, commands) {
  for (let first = from; first < to; first += CALLERS_AT_ONCE) {
    const some = Array.from({ length: Math.min(CALLERS_AT_ONCE, to - first) }, (_, place) => first + place);
    await script.all(some.flatMap(commands));
  }
}

/** The command for a decision of one unit, as the Worker sends it. */
function decision(sha, keys, policies, now, address) {
  const quotas = policies.flatMap(({ algorithm, limit, seconds }) => [algorithm, limit, seconds * 1000, limit, 0, 1, 0, ""]);
  return ["EVALSHA", sha, keys.length + 2, `${PREFIX}blocked_ranges:version`, `${PREFIX}blocked:${address}`, ...keys, now, 1, 1, ...quotas].map(String);
}

await main(import.meta.url, async (args) => {
  const { values } = parseArgs({ args, options: { callers: { type: "string", default: "100000" }, write: { type: "boolean", default: false } } });
  const callers = Number(values.callers);
  if (!Number.isInteger(callers) || callers < 1) throw new Failure("--callers: a whole number, at least 1", 2);
  await setup({ redis: true });
  const written = {
    sizing: `${await sizing(callers, say)}\n\nMeasured with ${whole(callers)} callers: \`node bench/sizing.mjs --callers ${callers} --write\`.`,
    records: await records(1, say),
  };
  for (const text of Object.values(written)) console.log(`\n${text}`);
  if (!values.write) return;
  const former = readFileSync(DOCUMENT, "utf8");
  const document = Object.entries(written).reduce((text, [name, part]) => text.replace(new RegExp(`(<!-- ${name} -->)[^]*(<!-- end of ${name} -->)`), `$1\n\n${part}\n\n$2`), former);
  writeFileSync(DOCUMENT, document);
});

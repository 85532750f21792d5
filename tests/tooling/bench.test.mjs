/**
 * `npm run bench`, with too few requests for its times to mean anything. Its counts are right, it refuses targets that do not
 * exist, and it leaves no process behind. The Rust floors are left out, because they would have to be compiled.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { load, messages } from "../../bench/load.mjs";
import { quantile, spread } from "../../bench/statistics.mjs";
import { ratio, targets } from "../../bench/targets.mjs";
import { startOrigin } from "../harness/origin.mjs";
import { send } from "../harness/request.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Runs the benchmark to its end. */
async function bench(...args) {
  const child = spawn(process.execPath, ["scripts/bench.mjs", ...args], { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (printed += chunk));
  const [code] = await once(child, "close");
  return { code, printed };
}

describe("npm run bench", { skip: process.platform !== "linux" && "it reads /proc" }, () => {
  const folder = mkdtempSync(join(tmpdir(), "edge-limiter-bench-"));
  after(() => rmSync(folder, { recursive: true, force: true }));

  it("counts round trips and billed commands, adds the given delay, and leaves no process behind", async () => {
    const json = join(folder, "figures.json");
    const names = [
      "js", "js-floor", "hono-rate-limiter", "memory", "one-quota", "two-quotas", "remembered-denial", "fallback",
      "forward-js", "forward-js-floor", "forward-upstash-ratelimit", "forward-hono-rate-limiter", "forward-memory", "forward-two-quotas",
    ];
    const delay = 20;
    const { code, printed } = await bench(
      "peers", "--only", names.join(","), "--rounds", "1", "--requests", "40", "--starts", "1", "--callers", "500",
      "--redis-delay-ms", String(delay), "--json", json,
    );
    assert.equal(code, 0, printed);
    const { samples, sizes, growth, targets: judged } = JSON.parse(readFileSync(json, "utf8")).peers;
    const costs = Object.fromEntries(Object.entries(samples).map(([name, [{ roundTrips, billed }]]) => [name, [roundTrips, billed]]));
    // A limiter may send its counts in addition to its decisions.
    const whole = (all) => Object.fromEntries(Object.entries(all).map(([name, figures]) => [name, figures.map(Math.floor)]));
    const { "remembered-denial": recorded, "js-floor": floor, "forward-js-floor": forwarded, "forward-upstash-ratelimit": peer, ...exact } = costs;
    assert.deepEqual(whole(exact), {
      js: [0, 0], "hono-rate-limiter": [0, 0], memory: [0, 0],
      "one-quota": [1, 3], "two-quotas": [1, 4], fallback: [0, 0],
      "forward-js": [0, 0], "forward-hono-rate-limiter": [0, 0], "forward-memory": [0, 0], "forward-two-quotas": [1, 4],
    });
    // All denials become one record, sent in one call: a script and its commands.
    const [calls, commands] = recorded.map((figure) => Math.round(figure * 40));
    assert.ok(calls >= 1 && calls <= 4 && commands - calls === 7, `the denials cost ${calls} calls and ${commands} commands`);
    // For some callers the floor starts a window, which costs one command more.
    for (const [roundTrips, billed] of [floor, forwarded]) assert.ok(Math.floor(roundTrips) === 1 && billed >= 2 && billed < 3.2, `a decision of the floor costs ${roundTrips} round trips and ${billed} commands`);
    assert.equal(Math.floor(peer[0]), 1);

    for (const name of names) assert.ok(samples[name][0].cpu > 0, `${name}: the CPU time is ${samples[name][0].cpu}`);
    // A timer of Node.js may fire a millisecond early.
    for (const name of ["js-floor", "one-quota", "two-quotas"]) assert.ok(samples[name][0].p50 >= delay - 1, `${name}: the median is ${samples[name][0].p50} ms`);
    assert.ok(sizes["edge-limiter"].wasm > 0 && sizes["js-floor"].wasm === 0);
    assert.ok(growth["hono-rate-limiter"].heap > 0 && growth.js.linear === 0, JSON.stringify(growth));
    assert.ok(judged.some(({ target, must }) => must && target.startsWith("size")));

    const urls = printed.match(/http:\/\/127\.0\.0\.1:\d+/g);
    assert.equal(urls.length, 2, "the URLs of the stand-in and the origin are not printed once each");
    for (const url of urls) await assert.rejects(send(url), { code: "ECONNREFUSED" });
  });

  const mistakes = [
    [["--round", "3"], /--round/],
    [["--rounds", "0"], /--rounds: a whole number, at least 1/],
    [["--requests", "many"], /--requests: a whole number/],
    [["nonsense"], /no section nonsense/],
    [["--only", "one-quota,nobody"], /there is no nobody; there are js, /],
    [["--write", "--only", "js"], /leave --only/],
  ];
  for (const [args, message] of mistakes) {
    it(`refuses ${args.join(" ")}`, async () => {
      const { code, printed } = await bench(...args);
      assert.equal(code, 2, printed);
      assert.match(printed, message);
    });
  }
});

describe("the benchmark's load", () => {
  const sent = { requests: 20, connections: 4, messages: messages(["192.0.2.1", "192.0.2.2"]) };

  it("sends the given number of requests, from each caller in turn", async () => {
    const origin = await startOrigin((_, response) => response.end("fine"));
    try {
      const { seconds, p50, p99, p999 } = await load({ ...sent, port: origin.port, expected: { status: 200, has: ["fine"], lacks: ["foul"] } });
      assert.ok(seconds > 0 && p50 > 0 && p50 <= p99 && p99 <= p999);
      const callers = origin.requests.map((request) => request.header("CF-Connecting-IP"));
      assert.deepEqual([callers.length, callers.filter((caller) => caller === "192.0.2.1").length], [20, 10]);
    } finally {
      await origin.stop();
    }
  });

  const answers = {
    "another status": (response) => response.writeHead(500, { "Content-Length": 4 }).end("fine"),
    "a required text missing": (response) => response.end("other"),
    "a forbidden text": (response) => response.end("fine and foul"),
  };
  for (const [what, answer] of Object.entries(answers)) {
    it(`fails on one answer of many with ${what}`, async () => {
      const origin = await startOrigin((_, response) => (origin.requests.length === 15 ? answer(response) : response.end("fine")));
      try {
        await assert.rejects(load({ ...sent, port: origin.port, expected: { status: 200, has: ["fine"], lacks: ["foul"] } }), /expected .*, got:\nHTTP/);
      } finally {
        await origin.stop();
      }
    });
  }
});

describe("the benchmark's statistics", () => {
  it("quantiles are interpolated between values", () => {
    assert.deepEqual([0, 0.25, 0.5, 0.99, 1].map((share) => quantile([10, 20, 30, 40, 50], share)), [10, 20, 30, 49.6, 50]);
    assert.deepEqual(spread([9, 1, 5]), { median: 5, low: 3, high: 7 });
  });

  it("a ratio is the median of the ratios within each round", () => {
    // The ratio of the medians would be 20 / 2.
    const samples = { "two-quotas": [{ cpu: 10 }, { cpu: 20 }, { cpu: 90 }], "upstash-ratelimit": [{ cpu: 2 }, { cpu: 1 }, { cpu: 3 }] };
    assert.equal(ratio(samples, "two-quotas", "upstash-ratelimit").median, 20);
    assert.equal(ratio(samples, "two-quotas", "rust-floor"), undefined);
  });

  it("a target is met at its bound, and missed beyond it", () => {
    const judge = (cpu) => {
      const samples = { "two-quotas": [{ cpu }], "upstash-ratelimit": [{ cpu: 100 }] };
      return targets({ titles: {}, samples, sizes: {}, starting: {} }).map(({ must, met }) => [must, met]);
    };
    assert.deepEqual([judge(100), judge(105), judge(106)], [[[true, true], [false, true]], [[true, true], [false, false]], [[true, false], [false, false]]]);
  });
});

/** Metrics that isolates send to one Redis, the schedule folds, and Prometheus reads. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, beforeEach, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { ADMIN_TOKEN, eventually, good, has } from "../harness/control.mjs";
import { PREFIX, ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { ON_DEMAND, runSchedule } from "../harness/schedule.mjs";
import { startPrometheus, temporary } from "../ops/files.mjs";

const METRICS_TOKEN = "a-metrics-token-of-this-test";

const VARS = {
  ADMIN_TOKEN, METRICS_TOKEN, RATE_LIMIT_METRICS: true, RATE_LIMIT_METRICS_SECONDS: 1, RATE_LIMIT_IP: "off",
  RATE_LIMIT_GENERAL: "100000,60", RATE_LIMIT_AUTH: "2,60,600", RATE_LIMIT_ROUTES: [{ path: "/login", policies: ["auth"] }],
};

const scrape = async (limiter, headers = { Authorization: `Bearer ${METRICS_TOKEN}` }) => {
  const answer = await send(limiter.url, { path: "/_limiter/metrics", headers });
  assert.equal(answer.status, 200, answer.text());
  return answer;
};

/** The samples of a scrape, by their names and labels. */
async function samples(limiter) {
  const text = (await scrape(limiter)).text();
  const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(" ")), Number(line.slice(line.lastIndexOf(" ")))]));
}

const REQUESTS = (outcome, route) => `edge_limiter_requests_total{outcome="${outcome}",route="${route}"}`;

describe("metrics that isolates share", () => {
  let shared;
  before(async () => {
    shared = await startShared();
  });
  after(() => shared?.stop());
  beforeEach(() => shared.reset());

  const start = (vars) => shared.limiter({ ...VARS, ...vars }, { modules: ON_DEMAND });

  it("totals are the sum of all requests, across flushes, folds, an isolate's end and a lost answer", async () => {
    let [one, other] = await Promise.all([start(), start()]);
    let sent = 0;
    let last = 0;
    const total = async () => {
      const found = (await samples(other)).get(REQUESTS("admitted", "other")) ?? 0;
      assert.ok(found >= last, `the total fell from ${last} to ${found}`);
      return (last = found);
    };
    const traffic = async (limiter, times) => {
      for (let i = 0; i < times; i++) assert.equal(await ask(limiter, `192.0.2.${i % 50}`), 200);
      sent += times;
      await total();
    };
    const allCounted = () => eventually(async () => assert.equal(await total(), sent), 30_000);
    await traffic(one, 30);
    await traffic(other, 20);
    await allCounted();
    await Promise.all([runSchedule(one), runSchedule(other), runSchedule(one)]);
    assert.equal(await total(), sent);
    // Counts that an isolate has sent outlive it.
    await one.stop();
    await traffic(other, 10);
    await allCounted();
    one = await start();
    await traffic(one, 10);
    await allCounted();
    // The answer to a flush is lost. The isolate sends it again, and it counts once.
    await traffic(one, 5);
    shared.standIn.faults.set({ kind: "reset", after: true, times: 1 });
    await eventually(async () => assert.deepEqual(shared.standIn.faults.active(), []), 30_000);
    await allCounted();
    await runSchedule(one);
    assert.equal(await total(), sent);
  });

  it("a flush costs one command, an idle isolate none, and a scrape six", async () => {
    const limiter = await start();
    assert.equal(await ask(limiter, "192.0.2.1"), 200);
    await eventually(async () => assert.equal((await samples(limiter)).get(REQUESTS("admitted", "other")), 1), 30_000);
    const idle = await shared.cost(() => delay(3000));
    assert.deepEqual(idle, { billed: 0, requests: 0 });
    const scraped = await shared.cost(() => scrape(limiter));
    assert.deepEqual(scraped, { billed: 6, requests: 1 });
    // The commands of the requests, and one for all counts of a second.
    const { billed } = await shared.cost(async () => {
      for (let i = 0; i < 50; i++) assert.equal(await ask(limiter, "192.0.2.1"), 200);
      await delay(2500);
    });
    const decisions = 50 * 3;
    assert.ok(billed > decisions && billed <= decisions + 3, `${billed} commands were billed for ${decisions} of decisions`);
  });

  it("the schedule folds counts into charts, counts keys and reads INFO", async () => {
    const limiter = await start();
    for (let i = 0; i < 4; i++) await ask(limiter, "192.0.2.1", "/login");
    await eventually(async () => assert.equal((await samples(limiter)).get(REQUESTS("blocked", "/login")), 2), 30_000);
    has(await good(limiter, "GET", "store"), { shared: true, keys: null, redis: null });
    const run = await shared.cost(() => runSchedule(limiter));
    assert.ok(run.billed <= 30, `a run of the schedule cost ${run.billed} commands`);
    const store = await good(limiter, "GET", "store");
    assert.ok(store.redis.memory_used_bytes > 100_000 && store.redis.uptime_seconds >= 0, JSON.stringify(store));
    const redis = await shared.standIn.redis.client();
    const keys = (await redis.keys(`${PREFIX}*`)).length;
    // The schedule writes its results and its own cost after it has counted the keys.
    assert.ok(store.keys.count <= keys && store.keys.count >= keys - 2, `${store.keys.count} keys were counted, Redis has ${keys}`);
    const found = await samples(limiter);
    assert.equal(found.get("redis_up"), 1);
    assert.ok(found.get("redis_memory_used_bytes") > 100_000);
    assert.equal(found.get("edge_limiter_keys"), store.keys.count);
    const { buckets } = await good(limiter, "GET", "series");
    const sum = (name) => buckets.reduce((all, { requests }) => all + (requests[name] ?? 0), 0);
    assert.deepEqual([sum("admitted"), sum("blocked")], [2, 2]);
  });

  it("a scrape while Redis is down has redis_up 0 and no totals", async () => {
    const limiter = await start();
    assert.equal(await ask(limiter, "192.0.2.1"), 200);
    await eventually(async () => assert.equal((await samples(limiter)).get(REQUESTS("admitted", "other")), 1), 30_000);
    await shared.standIn.redis.kill();
    const out = await samples(limiter);
    assert.equal(out.get("redis_up"), 0);
    assert.deepEqual([...out.keys()].filter((name) => name.includes("_total")), []);
    assert.equal(out.get('edge_limiter_limit{policy="auth"}'), 2);
    await shared.standIn.redis.start();
  });

  it("promtool accepts the metrics, and Prometheus computes the rate of two isolates", async (t) => {
    const [one, other] = await Promise.all([start(), start()]);
    for (const limiter of [one, other]) for (const path of ["/", "/login", "/login", "/login"]) await ask(limiter, "192.0.2.9", path);
    await runSchedule(one);
    const text = (await scrape(one)).text();
    const checked = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
    assert.deepEqual([checked.status, checked.stdout, checked.stderr], [0, "", ""]);
    const open = await scrape(one, { Authorization: `Bearer ${METRICS_TOKEN}`, Accept: "application/openmetrics-text;version=1.0.0" });
    assert.match(open.text(), /# EOF\n$/);

    const url = await startPrometheus(t, prometheusFolder(t, one.port));
    const value = async (query) => {
      const answer = await fetch(`${url}/api/v1/query?${new URLSearchParams({ query })}`);
      const { data } = await answer.json();
      return Number(data.result[0]?.value[1] ?? Number.NaN);
    };
    const REQUEST_TOTAL = 'sum(edge_limiter_requests_total{route="other"})';
    await eventually(async () => assert.equal(await value(REQUEST_TOTAL), 2), 30_000);
    await eventually(async () => assert.equal(await value(`count_over_time(redis_up[1m]) >= bool 4`), 1), 30_000);
    const from = performance.now();
    let sent = 0;
    while (performance.now() - from < 8000) {
      await Promise.all([one, other].map((limiter) => ask(limiter, "192.0.2.9")));
      sent += 2;
      await delay(20);
    }
    await eventually(async () => assert.equal(await value(REQUEST_TOTAL), sent + 2), 30_000);
    await delay(1000);
    // The window begins before the traffic and ends after it, so its rate is the number of requests divided by its length.
    const window = Math.ceil((performance.now() - from) / 1000) + 2;
    const rate = await value(`sum(rate(edge_limiter_requests_total{route="other"}[${window}s]))`);
    assert.ok(Math.abs((rate * window) / sent - 1) < 0.05, `Prometheus counts ${rate * window} requests, ${sent} were sent`);
  });
});

/** A folder with the configuration with which Prometheus scrapes a limiter twice a second. */
function prometheusFolder(t, port) {
  const folder = temporary(t);
  writeFileSync(join(folder, "prometheus.yml"), JSON.stringify({
    global: { scrape_interval: "500ms", scrape_timeout: "400ms" },
    scrape_configs: [{
      job_name: "edge-limiter", metrics_path: "/_limiter/metrics", static_configs: [{ targets: [`127.0.0.1:${port}`] }],
      basic_auth: { username: "prometheus", password: METRICS_TOKEN },
    }],
  }));
  return folder;
}

/** A real Prometheus with the files of ops/, with seconds in place of minutes: it scrapes, and every query has a result. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { load } from "js-yaml";
import { eventually } from "../harness/control.mjs";
import { METRICS_FILE } from "./contract.mjs";
import { files, prometheusFolder, queries, read, startPrometheus } from "./files.mjs";

const TOKEN = "a-token-of-this-test";
const SETTLED_MS = 60_000;

describe("Prometheus with the files of ops/", () => {
  const ends = [];
  const scrapes = [];
  let answers = 200;
  let url;

  before(async () => {
    const limiter = await startLimiter();
    const folder = prometheusFolder({ after: (end) => ends.push(end) }, TOKEN);
    adaptConfiguration(folder, limiter);
    url = await startPrometheus({ after: (end) => ends.push(end) }, folder);
  });
  after(async () => {
    for (const end of ends.reverse()) await end();
  });

  /** A server in the limiter's place. Its counters are multiplied by the number of scrapes so far, so that they grow. */
  async function startLimiter() {
    const lines = read(METRICS_FILE).split("\n");
    const counters = new Set(lines.flatMap((line) => /^# TYPE (\S+) (?:counter|histogram)$/.exec(line)?.[1] ?? []));
    const grown = (times) => lines.map((line) => {
      const [, name, rest, value] = /^([a-z_]+)(\S*|\{.*\}) ([\d.]+)$/.exec(line) ?? [];
      const isCounter = counters.has(name) || counters.has(name?.replace(/_(bucket|sum|count)$/, ""));
      return isCounter ? `${name}${rest} ${Number(value) * times}` : line;
    }).join("\n");
    const server = createServer(({ url: target, headers }, response) => {
      scrapes.push({ target, authorization: headers.authorization });
      response.writeHead(answers, { "Content-Type": "text/plain; version=0.0.4; charset=utf-8" });
      response.end(answers === 200 ? grown(scrapes.length) : "");
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    ends.push(() => server.close().closeAllConnections());
    return `127.0.0.1:${server.address().port}`;
  }

  /** Adapts a copy of the configuration to a test: no HTTPS, the server's address, no Alertmanager, and seconds in place of minutes. */
  function adaptConfiguration(folder, target) {
    const edit = (name, change) => {
      const file = path.join(folder, name);
      const content = load(readFileSync(file, "utf8"));
      change(content);
      writeFileSync(file, JSON.stringify(content)); // JSON is valid YAML
    };
    edit("prometheus.yml", (config) => {
      delete config.alerting;
      Object.assign(config.global, { scrape_interval: "1s", scrape_timeout: "1s", evaluation_interval: "1s" });
      const [job] = config.scrape_configs;
      job.scheme = "http";
      job.static_configs[0].targets = [target];
    });
    for (const file of files("prometheus", "rules")) {
      edit(path.join("rules", path.basename(file)), ({ groups }) => groups.forEach((group) => {
        delete group.interval;
        // Rules over the whole hours of a month would have no samples yet.
        for (const rule of group.rules) rule.expr = rule.expr.replace("[1h]", "[5s]").replace("[31d:1h]", "[5m:5s]");
      }));
    }
  }

  async function query(expression) {
    const response = await fetch(`${url}/api/v1/query?${new URLSearchParams({ query: expression })}`);
    const { status, error, data } = await response.json();
    assert.equal(status, "success", `${expression}: ${error}`);
    return data.result;
  }

  it("scrapes the limiter with the token from the file", async () => {
    await eventually(async () => assert.equal((await query('up{job="edge-limiter"}'))[0]?.value[1], "1"), SETTLED_MS);
    assert.deepEqual(scrapes[0], { target: "/_limiter/metrics", authorization: `Bearer ${TOKEN}` });
  });

  it("evaluates every rule without an error", async () => {
    await eventually(async () => {
      const { data } = await (await fetch(`${url}/api/v1/rules`)).json();
      const rules = data.groups.flatMap((group) => group.rules);
      assert.ok(rules.length > 20);
      assert.deepEqual(rules.filter(({ health, lastError }) => health !== "ok" || lastError).map(({ name, health, lastError }) => [name, health, lastError]), []);
    }, SETTLED_MS);
  });

  it("has a result for every query of the dashboards", async () => {
    const all = queries({ range: "10s" });
    assert.ok(all.length > 40);
    await eventually(async () => {
      for (const { file, panel, expr } of all) {
        const [result] = await query(expr.replaceAll("offset 1d", "offset 1s"));
        assert.ok(result, `${file}, ${panel}: ${expr} is empty`);
        assert.ok(Number.isFinite(Number(result.value[1])), `${file}, ${panel}: ${expr} is ${result.value[1]}`);
      }
    }, SETTLED_MS, 500);
  });

  it("records the ratios that follow from the scraped counters", async () => {
    for (const [name, share] of [
      ["instance:edge_limiter_requests_denied:ratio_rate5m", 40 / 986],
      ["instance:edge_limiter_decisions_without_store:ratio_rate5m", (10 + 300 + 100 + 18) / 987],
      ["instance:edge_limiter_decisions_fallback:ratio_rate15m", 100 / 987],
      ["instance:edge_limiter_store_errors:ratio_rate5m", 6 / 566],
      ["instance:edge_limiter_requests_unavailable:ratio_rate15m", 1 / 986],
    ]) {
      const [{ value }] = await query(name);
      assert.ok(Math.abs(value[1] - share) < 1e-6, `${name} is ${value[1]}, not ${share}`);
    }
    // The median is in the bucket between 10 and 25 ms.
    const [{ value }] = await query("instance:edge_limiter_store_duration_seconds:p50_5m");
    assert.ok(value[1] > 0.01 && value[1] < 0.025, `the median is ${value[1]} s`);
  });

  it("has a pending alert once the limiter answers 503", async () => {
    const pending = () => query('ALERTS{alertname="EdgeLimiterNothingScraped", alertstate="pending"}');
    assert.deepEqual(await pending(), []);
    answers = 503;
    await eventually(async () => assert.deepEqual((await pending()).map(({ metric }) => metric.severity).sort(), ["critical", "warning"]), SETTLED_MS);
  });
});

/** Prometheus's tools accept the configuration and the rules, alerts fire when they should, and each links to its section of the guide. */

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { root } from "../../scripts/command.mjs";
import { METRICS_FILE, exposed, problems, references } from "./contract.mjs";
import { OPS, alerts, files, prometheusFolder, queries, read, recorded, rules, run, yaml } from "./files.mjs";

/** This alert has no critical form, since requests are decided as before meanwhile: nobody is paged. */
const WARNING_ONLY = "EdgeLimiterScheduleStopped";

const GUIDE = path.join("docs", "operating.md");

describe("ops/prometheus", () => {
  it("promtool accepts the configuration, and its token is in a file", (t) => {
    const folder = prometheusFolder(t);
    run("promtool", ["check", "config", path.join(folder, "prometheus.yml")]);
    const [{ metrics_path, scheme, authorization }] = yaml("ops", "prometheus", "prometheus.yml").scrape_configs;
    assert.deepEqual({ metrics_path, scheme, authorization }, {
      metrics_path: "/_limiter/metrics", scheme: "https", authorization: { type: "Bearer", credentials_file: "secrets/limiter_token" },
    });
  });

  it("promtool accepts the rules", () => {
    run("promtool", ["check", "rules", ...files("prometheus", "rules").map((file) => path.join(root, file))]);
  });

  for (const file of files("prometheus", "tests")) {
    it(`alerts fire exactly as ${path.basename(file)} expects`, () => {
      run("promtool", ["test", "rules", path.basename(file)], { cwd: path.join(OPS, "prometheus", "tests") });
    });
  }

  it("every alert has a test case in which it fires and one in which it does not, for each severity", () => {
    const checks = files("prometheus", "tests").flatMap((file) => yaml(file).tests).flatMap((test) => test.alert_rule_test);
    for (const { alert, labels } of alerts()) {
      const of = checks.filter(({ alertname }) => alertname === alert);
      const fires = (check) => check.exp_alerts.some(({ exp_labels }) => exp_labels.severity === labels.severity);
      assert.ok(of.some(fires), `${alert} ${labels.severity} fires in no case`);
      assert.ok(of.some((check) => !fires(check)), `${alert} ${labels.severity} fires in every case`);
    }
  });

  it("every alert has a warning and a critical form, a summary, a description and a section of the guide", () => {
    const headings = [...read(GUIDE).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => heading);
    const anchors = headings.map((heading) => heading.toLowerCase().replace(/[^\w\s-]/g, "").replaceAll(/\s/g, "-"));
    const severities = {};
    for (const { alert, labels, annotations } of alerts()) {
      (severities[alert] ??= []).push(labels.severity);
      assert.deepEqual(Object.keys(annotations).sort(), ["description", "runbook_url", "summary"], alert);
      const { pathname, hash } = new URL(annotations.runbook_url);
      assert.ok(pathname.endsWith(`/${GUIDE}`), annotations.runbook_url);
      assert.ok(anchors.includes(hash.slice(1)), `${GUIDE} has no section ${hash}`);
      assert.ok(headings.includes(alert), `${GUIDE} has no section ${alert}`);
    }
    for (const [alert, list] of Object.entries(severities)) assert.deepEqual(list, alert === WARNING_ONLY ? ["warning"] : ["warning", "critical"], alert);
    const known = headings.filter((heading) => heading.startsWith("EdgeLimiter"));
    assert.deepEqual(known.sort(), Object.keys(severities).sort());
  });

  it("rules read only metrics, labels and values that the limiter has", () => {
    for (const { record, alert, expr } of rules()) assert.deepEqual(problems(expr, recorded()), [], record ?? alert);
  });

  it("no recording rule has the name of a metric of the limiter, and every one is read", () => {
    const read = new Set([...rules().flatMap(({ expr }) => references(expr)), ...queries().flatMap(({ expr }) => references(expr))].map(({ metric }) => metric));
    for (const name of recorded()) {
      assert.ok(!exposed().has(name), `the recording rule ${name} has the name of a metric`);
      assert.ok(read.has(name), `no alert and no dashboard reads ${name}`);
    }
  });
});

describe("tests/ops/metrics.txt", () => {
  it("promtool accepts the stored scrape", () => {
    run("promtool", ["check", "metrics"], { input: read(METRICS_FILE) });
  });

  it("the stored scrape has all documented metrics and no others", () => {
    const names = new Set([...read(METRICS_FILE).matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name));
    const limiter = ["requests_total", "decisions_total", "limit", "window_seconds", "limited_callers", "blocked", "keys", "events_left_out_total",
      "store_requests_total", "store_duration_seconds", "store_commands_total", "breaker_transitions_total", "build_info"];
    const redis = ["up", "memory_used_bytes", "memory_max_bytes", "connected_clients", "commands_processed_total", "keyspace_hits_total",
      "keyspace_misses_total", "evicted_keys_total", "expired_keys_total", "uptime_in_seconds", "connected_slaves"];
    assert.deepEqual([...names].sort(), [...limiter.map((name) => `edge_limiter_${name}`), ...redis.map((name) => `redis_${name}`)].sort());
  });

  it("an expression with a metric, label or value that the scrape does not have is reported", (t) => {
    const none = new Set(["instance:recorded"]);
    const good = 'sum by (outcome) (rate(edge_limiter_requests_total{outcome=~"denied|blocked", instance="x"}[5m])) / on () group_left (month) (instance:recorded > 0) or up == 0';
    assert.deepEqual(problems(good, none), []);
    assert.deepEqual(references(good).map(({ metric }) => metric), ["edge_limiter_requests_total", "instance:recorded", "up"]);
    for (const [expr, wrong] of [
      ["rate(edge_limiter_request_total[5m])", "edge_limiter_request_total is not a metric of the limiter"],
      ['edge_limiter_requests_total{policy="x"}', "edge_limiter_requests_total has no label policy"],
      ['edge_limiter_requests_total{outcome=~"denied|refused"}', 'edge_limiter_requests_total has no outcome "refused"'],
      ["node_load1 > 1", "node_load1 is not a metric of the limiter"],
    ]) assert.deepEqual(problems(expr, none), [wrong]);
    // promtool reports a mistake, too, so these tests do not pass merely because it never runs.
    const file = path.join(prometheusFolder(t), "rules", "wrong.yml");
    writeFileSync(file, 'groups: [{name: wrong, rules: [{record: wrong, expr: "sum by (("}]}]');
    assert.throws(() => run("promtool", ["check", "rules", file]));
  });
});

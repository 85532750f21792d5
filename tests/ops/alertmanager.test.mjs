/** Alertmanager's configuration: which receivers get an alert, and what they are sent. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";
import path from "node:path";
import { describe, it } from "node:test";
import { eventually } from "../harness/control.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { onPath } from "../upstash/on-path.mjs";
import { OPS, alerts, read, run, start, temporary, yaml } from "./files.mjs";

const FILE = path.join(OPS, "alertmanager", "alertmanager.yml");

describe("ops/alertmanager", () => {
  it("amtool accepts the configuration, and its secrets are in files", () => {
    run("amtool", ["check-config", FILE]);
    const { global, receivers } = yaml("ops", "alertmanager", "alertmanager.yml");
    assert.ok(global.slack_api_url_file);
    for (const { pagerduty_configs = [] } of receivers) for (const { routing_key_file } of pagerduty_configs) assert.ok(routing_key_file);
    assert.doesNotMatch(read("ops", "alertmanager", "alertmanager.yml"), /api_url:|routing_key:|service_key:/);
  });

  it("critical alerts go to PagerDuty and Slack, and others to Slack alone", () => {
    const receivers = (labels) => run("amtool", ["config", "routes", "test", `--config.file=${FILE}`, ...labels]).trim().split(",").sort();
    for (const { alert, labels } of alerts()) {
      const expected = labels.severity === "critical" ? ["pagerduty", "slack"] : ["slack"];
      assert.deepEqual(receivers([`alertname=${alert}`, `severity=${labels.severity}`, "instance=limiter.example.com"]), expected, alert);
    }
    assert.deepEqual(receivers(["alertname=Other"]), ["slack"]);
  });

  it("messages to Slack and PagerDuty have the summary, the description and the link to the guide", async (t) => {
    const messages = [];
    const server = createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      messages.push({ to: request.url, ...JSON.parse(Buffer.concat(chunks)) });
      // Both services report success in this way.
      response.writeHead(request.url === "/slack" ? 200 : 202).end('{"status":"success","dedup_key":"x"}');
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    t.after(() => server.close().closeAllConnections());
    const url = `http://127.0.0.1:${server.address().port}`;
    const folder = temporary(t);
    const config = yaml("ops", "alertmanager", "alertmanager.yml");
    const secret = (name, text) => {
      writeFileSync(path.join(folder, name), text);
      return path.join(folder, name);
    };
    config.global.slack_api_url_file = secret("slack", `${url}/slack`);
    config.global.pagerduty_url = `${url}/pagerduty`;
    for (const { pagerduty_configs = [] } of config.receivers) for (const one of pagerduty_configs) one.routing_key_file = secret("pagerduty", "a-routing-key");
    config.route.group_wait = "0s";
    writeFileSync(path.join(folder, "alertmanager.yml"), JSON.stringify(config));
    const address = `127.0.0.1:${await freePort()}`;
    // Debian's package names the program differently.
    const program = ["prometheus-alertmanager", "alertmanager"].find(onPath);
    const end = await start([program, `--config.file=${folder}/alertmanager.yml`, `--storage.path=${folder}/data`, `--web.listen-address=${address}`, "--cluster.listen-address="], /Listening/);
    t.after(end);
    const [alert] = alerts().filter(({ labels }) => labels.severity === "critical");
    const response = await fetch(`http://${address}/api/v2/alerts`, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify([{ labels: { alertname: alert.alert, instance: "limiter.example.com", ...alert.labels }, annotations: alert.annotations }]),
    });
    assert.equal(response.status, 200);
    await eventually(async () => assert.deepEqual(messages.map(({ to }) => to).sort(), ["/pagerduty", "/slack"]), 20_000);
    const { summary, description, runbook_url } = alert.annotations;
    const { attachments: [attachment] } = messages.find(({ to }) => to === "/slack");
    assert.deepEqual([attachment.color, attachment.title, attachment.title_link, attachment.text.trim()], ["danger", `[firing, critical] ${summary}`, runbook_url, description]);
    const { routing_key, event_action, payload } = messages.find(({ to }) => to === "/pagerduty");
    assert.deepEqual([routing_key, event_action, payload.severity, payload.summary], ["a-routing-key", "trigger", "critical", `${summary} (limiter.example.com)`]);
    assert.equal(payload.custom_details.runbook, runbook_url);
  });
});

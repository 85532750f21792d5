/** tests/ops/metrics.txt, which the other tests use, has the metrics, labels and values that the limiter exposes. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { ADMIN_TOKEN, blocked, eventually, good } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { DOWN, ask, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { ON_DEMAND, runSchedule } from "../harness/schedule.mjs";
import { exposed } from "./contract.mjs";

/** Labels whose values depend on the deployment. */
const DEPLOYMENT_LABELS = ["route", "policy", "version"];

describe("a scrape of the limiter", () => {
  let shared, limiter;
  before(async () => {
    shared = await startShared();
    limiter = await shared.limiter({
      ADMIN_TOKEN, RATE_LIMIT_METRICS: true, RATE_LIMIT_METRICS_SECONDS: 1, RATE_LIMIT_IP: "off", RATE_LIMIT_ALLOWLIST: "192.0.2.200",
      RATE_LIMIT_AUTH: `1,${HOUR_S},600`, RATE_LIMIT_TRIAL: `1,${HOUR_S}`, RATE_LIMIT_LEASED: "10000,60", RATE_LIMIT_GENERAL: `3,${HOUR_S}`,
      RATE_LIMIT_POLICIES: { trial: { mode: "shadow" }, leased: { lease: 100 } },
      RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }, { path: "/trial", policies: ["trial"] }, { path: "/leased", policies: ["leased"] }],
    }, { modules: ON_DEMAND });
  });
  after(() => shared?.stop());

  it("has the metrics, labels and values of tests/ops/metrics.txt, and no others", async () => {
    for (let request = 0; request < 40; request++) await ask(limiter, CALLER, "/leased");
    for (const path of ["/", "/auth", "/trial"]) for (let request = 0; request < 5; request++) await ask(limiter, CALLER, path);
    await ask(limiter, "192.0.2.200");
    shared.standIn.faults.set({ ...DOWN, times: 1 });
    await ask(limiter, "192.0.2.7", "/trial");
    shared.standIn.faults.clear();
    await good(limiter, "PUT", blocked("203.0.113.9"), { json: {} });
    await ask(limiter, "203.0.113.9");
    await runSchedule(limiter);
    const [expected] = [exposed()];
    await eventually(async () => {
      const answer = await send(limiter.url, { path: "/_limiter/metrics", headers: { Authorization: `Bearer ${ADMIN_TOKEN}` } });
      const found = exposed(answer.text());
      assert.deepEqual([...found.keys()].sort(), [...expected.keys()].sort());
      for (const [name, labels] of found) {
        assert.deepEqual([...labels.keys()].sort(), [...expected.get(name).keys()].sort(), name);
        for (const [label, values] of labels) {
          if (DEPLOYMENT_LABELS.includes(label)) continue;
          assert.deepEqual([...values].filter((value) => !expected.get(name).get(label).has(value)), [], `${name}, ${label}`);
        }
      }
      const values = (name, label) => [...found.get(name).get(label)].sort();
      assert.deepEqual(values("edge_limiter_requests_total", "outcome"), ["admitted", "blocked", "denied", "exempt", "unavailable"]);
      assert.deepEqual(values("edge_limiter_decisions_total", "outcome"), ["admitted", "blocked", "denied", "shadow_denied"]);
      for (const source of ["store", "lease", "remembered", "memory"]) assert.ok(values("edge_limiter_decisions_total", "source").includes(source), source);
      assert.deepEqual(values("edge_limiter_store_duration_seconds_bucket", "le"), [...expected.get("edge_limiter_store_duration_seconds_bucket").get("le")].sort());
    }, 20_000, 500);
  });
});

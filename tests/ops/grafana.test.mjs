/** Dashboards: their queries parse and read metrics that exist, and their panels have titles and units. */

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { problems } from "./contract.mjs";
import { files, prometheusFolder, queries, read, recorded, run, yaml } from "./files.mjs";

const boards = files("grafana", "dashboards").map((file) => ({ file, board: JSON.parse(read(file)) }));

describe("ops/grafana", () => {
  it("promtool parses all queries", (t) => {
    const file = path.join(prometheusFolder(t), "queries.yml");
    const rules = queries().map(({ expr }, number) => ({ record: `query:${number}`, expr }));
    writeFileSync(file, JSON.stringify({ groups: [{ name: "dashboards", rules }] }));
    assert.match(run("promtool", ["check", "rules", file]), new RegExp(`SUCCESS: ${rules.length} rules found`));
  });

  it("queries read only metrics, labels and values that the limiter has", () => {
    for (const { file, panel, expr } of queries()) assert.deepEqual(problems(expr, recorded()), [], `${file}: ${panel}`);
  });

  for (const { file, board } of boards) {
    it(`every panel of ${path.basename(file)} has a title, a unit, its own place and the chosen data source`, () => {
      const [ids, cells] = [new Set(), new Set()];
      for (const { id, type, title, gridPos, fieldConfig, datasource, targets } of board.panels) {
        assert.ok(title?.length > 0, `panel ${id} has no title`);
        assert.ok(!ids.has(id), `the ID ${id} belongs to two panels`);
        ids.add(id);
        const { x, y, w, h } = gridPos;
        assert.ok(x + w <= 24, `${title} is wider than the page`);
        for (let cell = 0; cell < w * h; cell++) {
          const at = `${x + (cell % w)} ${y + Math.floor(cell / w)}`;
          assert.ok(!cells.has(at), `${title} overlaps another panel at ${at}`);
          cells.add(at);
        }
        if (type === "row") continue;
        assert.ok(fieldConfig.defaults.unit, `${title} has no unit`);
        assert.ok(targets.length > 0, `${title} has no query`);
        for (const source of [datasource, ...targets.map((target) => target.datasource)]) assert.equal(source.uid, "${datasource}", title);
        for (const { expr } of targets) if (/\[[^\]]*\]/.test(expr)) assert.match(expr, /\[(\$__rate_interval|15m|1h)\]/, title);
      }
    });
  }

  it("dashboards have unique names, and provisioning finds them and Prometheus", () => {
    for (const field of ["uid", "title"]) assert.equal(new Set(boards.map(({ board }) => board[field])).size, boards.length, field);
    for (const { board } of boards) assert.match(board.uid, /^[\w-]{1,40}$/);
    const [{ options }] = yaml("ops", "grafana", "provisioning", "dashboards", "edge-limiter.yml").providers;
    const [{ type, url }] = yaml("ops", "grafana", "provisioning", "datasources", "prometheus.yml").datasources;
    const { volumes, environment } = yaml("ops", "docker-compose.yml").services.grafana;
    assert.ok(volumes.includes(`./grafana/dashboards:${options.path}:ro`));
    assert.equal(environment.GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH, `${options.path}/limiter.json`);
    assert.deepEqual([type, url], ["prometheus", "http://prometheus:9090"]);
  });
});

/** The limiter accepts each configuration that README and the docs show, and each change that they show fits wrangler.toml. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, it } from "node:test";
import { environment, root } from "../../scripts/command.mjs";

const read = (file) => readFileSync(path.join(root, file), "utf8");
const pages = ["README.md", ...readdirSync(path.join(root, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)];
const blocks = (page, mark) => [...read(page).matchAll(new RegExp(`^\`\`\`${mark}\\n([^]*?)^\`\`\``, "gm"))].map(([, block]) => block);

describe("configuration in the docs", () => {
  for (const page of pages) {
    for (const [number, block] of blocks(page, "toml").entries()) {
      it(`the limiter accepts block ${number + 1} of ${page}`, (t) => {
        // Other keys are settings of wrangler.
        const isVariables = /^(RATE_LIMIT|REDIS|ORIGIN)_/m.test(block) && !block.includes("[vars]");
        const { status, output } = check(t, `${isVariables ? "[vars]\n" : ""}${block}`);
        assert.equal(status, 0, output);
        assert.doesNotMatch(output, /is not in use|no route uses/);
      });
    }
  }

  for (const page of ["README.md", "docs/getting-started.md"]) {
    it(`${page} shows where to insert a policy and a route in wrangler.toml`, (t) => {
      const [diff, ...others] = blocks(page, "diff");
      assert.equal(others.length, 0);
      const lines = diff.trimEnd().split("\n");
      const before = lines.filter((line) => line.startsWith(" ")).map((line) => line.slice(1)).join("\n");
      const after = lines.map((line) => line.slice(1)).join("\n");
      const shipped = read("wrangler.toml");
      assert.equal(shipped.split(`${before}\n`).length, 2, "the context of the change is not in wrangler.toml exactly once");
      const { status, output } = check(t, shipped.replace(before, after));
      assert.equal(status, 0, output);
      assert.match(output, /^login +5 +60 s +900 s /m);
    });
  }
});

/** Runs `npm run check-config` on the text of a wrangler.toml. */
function check(t, text) {
  const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-snippets-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const config = path.join(folder, "wrangler.toml");
  writeFileSync(config, text);
  const args = ["scripts/check-config.mjs", "--config", config];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: root, env: environment, encoding: "utf8" });
  return { status, output: stdout + stderr };
}

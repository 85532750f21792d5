/** The files in scripts/. Each is a program, or a module of one. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { root } from "../../scripts/command.mjs";

const MAX_IMPORT_MS = 60_000;

describe("scripts/", () => {
  for (const file of readdirSync(path.join(root, "scripts")).filter((name) => name.endsWith(".mjs"))) {
    it(`${file} finds its imports, and does nothing when it is imported`, () => {
      const url = pathToFileURL(path.join(root, "scripts", file)).href;
      const { status, stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "--eval", `await import(${JSON.stringify(url)})`], { encoding: "utf8", timeout: MAX_IMPORT_MS });
      assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: "", stderr: "" });
    });
  }
});

/** The GitHub workflows run commands that exist, pin their actions and have only the permissions they need. All files name one version. */

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { load } from "js-yaml";
import { root } from "../../scripts/command.mjs";

const FOLDER = path.join(".github", "workflows");
const read = (file) => readFileSync(path.join(root, file), "utf8");
const { scripts, version } = JSON.parse(read("package.json"));

/** The jobs with more permissions than to read the repository. */
const PERMISSIONS = { "release.yml": { publish: { contents: "read", "id-token": "write" } } };

for (const file of readdirSync(path.join(root, FOLDER))) {
  const workflow = load(read(path.join(FOLDER, file)));
  const jobs = Object.entries(workflow.jobs);
  const steps = jobs.flatMap(([, job]) => job.steps ?? []);
  const commands = steps.map(({ run }) => run ?? "").join("\n");

  describe(`${FOLDER}/${file}`, () => {
    it("has permission only to read the repository, except for jobs that need more", () => {
      assert.deepEqual(workflow.permissions, { contents: "read" });
      const more = Object.fromEntries(jobs.filter(([, job]) => job.permissions).map(([name, job]) => [name, job.permissions]));
      assert.deepEqual(more, PERMISSIONS[file] ?? {});
    });

    it("uses only GitHub's own actions, pinned to a major version, and keeps no credentials after checkout", () => {
      for (const { uses, with: options } of steps.filter((step) => step.uses)) {
        assert.match(uses, /^actions\/[a-z-]+@v\d+$/);
        if (uses.startsWith("actions/checkout@")) assert.equal(options?.["persist-credentials"], false);
      }
    });

    it("calls scripts and files that exist", () => {
      for (const [, script] of commands.matchAll(/\bnpm run ([\w-]+)/g)) assert.ok(script in scripts, script);
      const called = [...commands.matchAll(/(?:^|\s)(\.?[\w-]+\/[\w./-]*|[\w./-]+\.toml)/gm)].map(([, name]) => name).filter((name) => !name.startsWith("dist/"));
      const reused = jobs.map(([, job]) => job.uses).filter(Boolean);
      const folders = jobs.flatMap(([, job]) => job.strategy?.matrix?.folder ?? []).map((folder) => `${folder}/package-lock.json`);
      for (const name of [...called, ...reused, ...folders]) assert.ok(existsSync(path.join(root, name)), name);
    });

    it("has time-outs, and inserts no text of a pull request into its commands", () => {
      for (const [name, job] of jobs) assert.ok(job.uses !== undefined || job["timeout-minutes"] > 0, name);
      assert.doesNotMatch(commands, /\$\{\{/);
      assert.doesNotMatch(JSON.stringify(workflow.on), /pull_request_target|workflow_run/);
    });
  });
}

describe("the workflows", () => {
  it("run `.ci/run`, and audit every lock file", () => {
    assert.match(read(path.join(FOLDER, "ci.yml")), /run: \.ci\/run$/m);
    const audit = read(path.join(FOLDER, "audit.yml"));
    for (const folder of ["", "bench/core/", "bench/workers/", "fuzz/", "tools/bindgen/"]) {
      assert.ok(existsSync(path.join(root, folder, "Cargo.lock")), folder);
      assert.match(audit, new RegExp(`[ ]${folder}Cargo\\.toml\\b`), folder);
    }
  });

  it("publish the package that `npm run package` builds", () => {
    assert.match(read(path.join(FOLDER, "release.yml")), /npm publish "dist\/edge-limiter-\$\{GITHUB_REF_NAME#v\}\.tgz" --provenance/);
  });
});

describe("the version", () => {
  it("is the same in every manifest and lock file, and has a section in the changelog", () => {
    const lock = JSON.parse(read("package-lock.json"));
    assert.deepEqual([lock.version, lock.packages[""].version], [version, version]);
    assert.equal(read("Cargo.toml").match(/^version = "(.*)"$/m)[1], version);
    for (const file of ["Cargo.lock", "bench/core/Cargo.lock", "fuzz/Cargo.lock"]) {
      const found = [...read(file).matchAll(/^name = "edge-limiter(?:-worker|-simulate)?"\nversion = "(.*)"$/gm)].map(([, locked]) => locked);
      assert.deepEqual([...new Set(found)], [version], file);
    }
    assert.match(read("CHANGELOG.md"), new RegExp(`^## \\[${version.replaceAll(".", "\\.")}\\]`, "m"));
  });
});

describe(".editorconfig", () => {
  it("describes the indentation of the code", () => {
    const rules = read(".editorconfig");
    assert.match(rules, /^\[\*\]\n(?:.*\n)*?indent_size = 2\n/m);
    assert.match(rules, /^\[\{\*\.rs,clippy\.toml\}\]\nindent_size = 4\n/m);
    for (const file of ["src/lib.rs", "npm/src/engine.js", "scripts/build.mjs", "README.md", "Cargo.toml", "src/store/decide.lua", "clippy.toml"]) {
      const text = read(file);
      assert.ok(text.endsWith("\n") && !/[\r\t]|[ ]$/m.test(text), file);
      const unit = /\.rs$|^clippy/.test(file) ? 4 : 2;
      if (!file.endsWith(".md") && !/\.rs$/.test(file)) {
        const odd = text.split("\n").filter((line) => !/^ *(?:\*|\/\/)/.test(line) && line.match(/^ */)[0].length % unit !== 0);
        assert.deepEqual(odd, [], file);
      }
    }
  });
});

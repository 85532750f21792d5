/** The contents of the tarball. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { TARBALL, program, project, root, run, version } from "./scratch.mjs";

/** The smallest limit of any platform on edge code is 1 MB compressed. Such a platform loads the Wasm only once, not every copy in the tarball. */
const MAX_TARBALL_BYTES = 1_150_000;

/** Modules that each platform's code may import besides files of the package. */
const IMPORTS = {
  workerd: ["cloudflare:sockets", "cloudflare:workers", "next/server.js", "node:stream"],
  "edge-light": ["next/server.js"],
  default: ["next/server.js", "node:stream"],
};

describe("the packed package", () => {
  it("the package installs without a registry, install scripts or dependencies", async (t) => {
    const folder = await project(t, {});
    assert.deepEqual(readdirSync(path.join(folder, "node_modules")).filter((name) => !name.startsWith(".")), ["edge-limiter"]);
    const manifest = JSON.parse(readFileSync(path.join(folder, "node_modules", "edge-limiter", "package.json"), "utf8"));
    assert.deepEqual([manifest.name, manifest.version, manifest.type, manifest.license], ["edge-limiter", version, "module", "MIT"]);
    for (const absent of ["scripts", "dependencies", "optionalDependencies", "bundleDependencies", "devDependencies", "private"]) assert.equal(manifest[absent], undefined, absent);
    const peers = Object.keys(manifest.peerDependencies ?? {});
    assert.deepEqual(peers.filter((name) => manifest.peerDependenciesMeta?.[name]?.optional !== true), [], "every peer dependency should be optional");
  });

  it("the package has every file that it exports, a README and the licence, and no path of the build machine", async (t) => {
    const folder = path.join(await project(t, {}), "node_modules", "edge-limiter");
    const { exports } = JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8"));
    const targets = Object.values(exports).flatMap((target) => (typeof target === "string" ? [target] : Object.values(target)));
    assert.ok(targets.length > 10);
    for (const target of targets) assert.ok(statSync(path.join(folder, target)).isFile(), target);
    assert.equal(readFileSync(path.join(folder, "LICENSE"), "utf8"), readFileSync(path.join(root, "LICENSE"), "utf8"));
    assert.match(readFileSync(path.join(folder, "README.md"), "utf8"), /npm install edge-limiter/);
    for (const file of filesOf(folder)) assert.ok(!readFileSync(path.join(folder, file)).includes(root.replace(/\/$/, "")), file);
  });

  it("the package has exactly the Worker's Wasm, as a file and embedded in the JavaScript", async (t) => {
    const dist = path.join(await project(t, {}), "node_modules", "edge-limiter", "dist");
    const built = readFileSync(path.join(root, "build", "index_bg.wasm"));
    assert.ok(readFileSync(path.join(dist, "index_bg.wasm")).equals(built));
    const embedded = filesOf(path.join(dist, "default")).filter((file) => readFileSync(path.join(dist, "default", file)).includes(built.toString("base64")));
    assert.equal(embedded.length, 1, "one file of the default condition should contain the Wasm");
    for (const condition of ["workerd", "edge-light"]) {
      for (const file of filesOf(path.join(dist, condition))) assert.ok(statSync(path.join(dist, condition, file)).size < 100_000, `${condition}/${file}`);
    }
  });

  it("the package imports only its own files and modules that each platform has", async (t) => {
    const dist = path.join(await project(t, {}), "node_modules", "edge-limiter", "dist");
    for (const [condition, allowed] of Object.entries(IMPORTS)) {
      for (const file of filesOf(path.join(dist, condition))) {
        const text = readFileSync(path.join(dist, condition, file), "utf8");
        const imports = [...text.matchAll(/\b(?:from|import)\s*\(?\s*["']([^"'\n]+)["']/g)].map(([, name]) => name);
        assert.deepEqual(imports.filter((name) => !name.startsWith("./") && !name.startsWith("../") && !allowed.includes(name)), [], `${condition}/${file}`);
      }
    }
    // The edge runtime refuses to compile JavaScript or Wasm, and its build warns of APIs that only Node has.
    for (const file of filesOf(path.join(dist, "edge-light"))) {
      assert.doesNotMatch(readFileSync(path.join(dist, "edge-light", file), "utf8"), /new WebAssembly\.Module|WebAssembly\.compile|\beval\(|new Function\(|process\.(?!env\b)\w/, file);
    }
  });

  it("the tarball stays within its size limit", (t) => {
    const { size } = statSync(TARBALL);
    t.diagnostic(`${path.basename(TARBALL)}: ${(size / 1000).toFixed(1)} kB`);
    assert.ok(size <= MAX_TARBALL_BYTES, `the tarball has ${size} bytes, the limit is ${MAX_TARBALL_BYTES}`);
  });

  it("publint and @arethetypeswrong/cli find no problem", async (t) => {
    const cwd = await project(t, {});
    assert.match(await run(process.execPath, [program("publint", "src", "cli.js"), TARBALL, "--strict"], { cwd }), /All good/);
    const found = await run(process.execPath, [program("@arethetypeswrong", "cli", "dist", "index.js"), TARBALL, "--profile", "esm-only", "--format", "json"], { cwd });
    // The remaining problems concern CommonJS and Node 10, which the profile ignores.
    const { analysis } = JSON.parse(found);
    assert.deepEqual([...new Set(analysis.problems.map(({ kind, resolutionKind }) => `${kind} ${resolutionKind}`))].sort(), ["CJSResolvesToESM node16-cjs", "NoResolution node10"]);
  });
});

function filesOf(folder) {
  return readdirSync(folder, { recursive: true }).filter((file) => statSync(path.join(folder, file)).isFile());
}

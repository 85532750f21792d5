/** The tarball: what is in it and what is not. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { TARBALL, program, project, root, run, version } from "./scratch.mjs";

/** A platform's limit on edge code is 1 MB compressed at its smallest, and of the tarball it loads the Wasm once alone. */
const MAX_TARBALL_BYTES = 1_150_000;

/** What code of a platform may import besides files of the package. */
const IMPORTS = {
  workerd: ["cloudflare:sockets", "cloudflare:workers", "next/server.js", "node:stream"],
  "edge-light": ["next/server.js"],
  default: ["next/server.js", "node:stream"],
};

describe("the packed package", () => {
  it("is installed without a registry, runs nothing then and brings nothing else", async (t) => {
    const folder = await project(t, {});
    assert.deepEqual(readdirSync(path.join(folder, "node_modules")).filter((name) => !name.startsWith(".")), ["edge-limiter"]);
    const manifest = JSON.parse(readFileSync(path.join(folder, "node_modules", "edge-limiter", "package.json"), "utf8"));
    assert.deepEqual([manifest.name, manifest.version, manifest.type, manifest.license], ["edge-limiter", version, "module", "MIT"]);
    for (const absent of ["scripts", "dependencies", "optionalDependencies", "bundleDependencies", "devDependencies", "private"]) assert.equal(manifest[absent], undefined, absent);
    const peers = Object.keys(manifest.peerDependencies ?? {});
    assert.deepEqual(peers.filter((name) => manifest.peerDependenciesMeta?.[name]?.optional !== true), [], "peers that are not optional");
  });

  it("has every file that it exports, a README and the licence, and no path of the machine that built it", async (t) => {
    const folder = path.join(await project(t, {}), "node_modules", "edge-limiter");
    const { exports } = JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8"));
    const targets = Object.values(exports).flatMap((target) => (typeof target === "string" ? [target] : Object.values(target)));
    assert.ok(targets.length > 10);
    for (const target of targets) assert.ok(statSync(path.join(folder, target)).isFile(), target);
    assert.equal(readFileSync(path.join(folder, "LICENSE"), "utf8"), readFileSync(path.join(root, "LICENSE"), "utf8"));
    assert.match(readFileSync(path.join(folder, "README.md"), "utf8"), /npm install edge-limiter/);
    for (const file of filesOf(folder)) assert.ok(!readFileSync(path.join(folder, file)).includes(root.replace(/\/$/, "")), file);
  });

  it("has the module that the Worker runs, byte for byte, as a file and in the JavaScript", async (t) => {
    const dist = path.join(await project(t, {}), "node_modules", "edge-limiter", "dist");
    const built = readFileSync(path.join(root, "build", "index_bg.wasm"));
    assert.ok(readFileSync(path.join(dist, "index_bg.wasm")).equals(built));
    const embedded = filesOf(path.join(dist, "default")).filter((file) => readFileSync(path.join(dist, "default", file)).includes(built.toString("base64")));
    assert.equal(embedded.length, 1, "files of the default condition with the module's bytes");
    for (const condition of ["workerd", "edge-light"]) {
      for (const file of filesOf(path.join(dist, condition))) assert.ok(statSync(path.join(dist, condition, file)).size < 100_000, `${condition}/${file}`);
    }
  });

  it("imports nothing but its own files and what each platform has", async (t) => {
    const dist = path.join(await project(t, {}), "node_modules", "edge-limiter", "dist");
    for (const [condition, allowed] of Object.entries(IMPORTS)) {
      for (const file of filesOf(path.join(dist, condition))) {
        const text = readFileSync(path.join(dist, condition, file), "utf8");
        const imports = [...text.matchAll(/\b(?:from|import)\s*\(?\s*["']([^"'\n]+)["']/g)].map(([, name]) => name);
        assert.deepEqual(imports.filter((name) => !name.startsWith("./") && !name.startsWith("../") && !allowed.includes(name)), [], `${condition}/${file}`);
      }
    }
    // The edge runtime refuses to compile, be it JavaScript or Wasm, and its build warns of what only Node has.
    for (const file of filesOf(path.join(dist, "edge-light"))) {
      assert.doesNotMatch(readFileSync(path.join(dist, "edge-light", file), "utf8"), /new WebAssembly\.Module|WebAssembly\.compile|\beval\(|new Function\(|process\.(?!env\b)\w/, file);
    }
  });

  it("is no larger than has been decided", (t) => {
    const { size } = statSync(TARBALL);
    t.diagnostic(`${path.basename(TARBALL)}: ${(size / 1000).toFixed(1)} kB`);
    assert.ok(size <= MAX_TARBALL_BYTES, `${size} bytes`);
  });

  it("has nothing that publint or @arethetypeswrong/cli objects to", async (t) => {
    const cwd = await project(t, {});
    assert.match(await run(process.execPath, [program("publint", "src", "cli.js"), TARBALL, "--strict"], { cwd }), /All good/);
    const found = await run(process.execPath, [program("@arethetypeswrong", "cli", "dist", "index.js"), TARBALL, "--profile", "esm-only", "--format", "json"], { cwd });
    // What remains is about CommonJS and Node 10, which the profile leaves out.
    const { analysis } = JSON.parse(found);
    assert.deepEqual([...new Set(analysis.problems.map(({ kind, resolutionKind }) => `${kind} ${resolutionKind}`))].sort(), ["CJSResolvesToESM node16-cjs", "NoResolution node10"]);
  });
});

function filesOf(folder) {
  return readdirSync(folder, { recursive: true }).filter((file) => statSync(path.join(folder, file)).isFile());
}

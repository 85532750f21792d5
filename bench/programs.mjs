/** The programs of the contestants: bundled JavaScript and compiled Rust, in `bench/build`, and edge-limiter itself. */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { make } from "../scripts/build.mjs";
import { root, run } from "../scripts/command.mjs";
import { setup, workerBuild } from "../scripts/setup.mjs";

const WORKERS = path.join("bench", "workers");
const BUILT = path.join("bench", "build");

/** Inputs of the Rust floors, beyond each one's own folder. */
const SHARED = ["Cargo.toml", "Cargo.lock", "floor.lua"].map((file) => path.join(WORKERS, file));

/** Builds what is not current. @returns {Promise<Record<string, string>>} the folder of each program */
export async function programs(names) {
  const folders = {};
  for (const name of new Set(names)) folders[name] = await folderOf(name);
  return folders;
}

async function folderOf(name) {
  if (name === "edge-limiter") return path.join(root, "build");
  const folder = path.join(BUILT, name);
  if (existsSync(path.join(root, WORKERS, `${name}.mjs`))) await bundle(name, folder);
  else await compiled(path.join(WORKERS, name), folder);
  return path.join(root, folder);
}

/** By worker-build, as its users build theirs. */
async function compiled(crate, folder) {
  await setup({ wasm: true, workerBuild: true });
  const how = async () => {
    const { program, env } = workerBuild();
    await run(program, ["--release", "--out-dir", path.relative(crate, folder), crate, "--locked"], { env });
  };
  await make(folder, [...SHARED, crate], how, { takes: "a minute from scratch" });
}

/** Minified, which favours them: wrangler does that only when asked. */
async function bundle(name, folder) {
  const esbuild = await import("esbuild");
  mkdirSync(path.join(root, folder), { recursive: true });
  await esbuild.build({
    absWorkingDir: root,
    entryPoints: [path.join(WORKERS, `${name}.mjs`)],
    outfile: path.join(folder, "index.js"),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    conditions: ["workerd", "worker", "browser"],
    loader: { ".lua": "text" },
    logLevel: "warning",
  });
}

/** Bytes of JavaScript and of WebAssembly, and of both gzipped at level 9. */
export function sizeOf(folder) {
  const [js, wasm] = ["index.js", "index_bg.wasm"].map((file) => {
    const whole = path.join(folder, file);
    return existsSync(whole) ? readFileSync(whole) : Buffer.alloc(0);
  });
  const gzipped = (content) => (content.length === 0 ? 0 : gzipSync(content, { level: 9 }).length);
  return { js: js.length, wasm: wasm.length, gzipped: gzipped(js) + gzipped(wasm) };
}

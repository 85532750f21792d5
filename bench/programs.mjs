/** Builds the contestants' programs in `bench/build`: bundled JavaScript and compiled Rust. edge-limiter itself is in `build`. */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { make } from "../scripts/build.mjs";
import { root, run } from "../scripts/command.mjs";
import { setup, workerBuild } from "../scripts/setup.mjs";

const WORKERS = path.join("bench", "workers");
const BUILT = path.join("bench", "build");

/** The files that the programs in Rust are made from, besides each one's own folder. */
const SHARED_INPUTS = ["Cargo.toml", "Cargo.lock", "floor.lua"].map((file) => path.join(WORKERS, file));

/** Builds the programs that are not up to date. @returns {Promise<Record<string, string>>} the folder of each program */
export async function programs(names) {
  const folders = {};
  for (const name of new Set(names)) folders[name] = await folderOf(name);
  return folders;
}

async function folderOf(name) {
  if (name === "edge-limiter") return path.join(root, "build");
  const folder = path.join(BUILT, name);
  if (existsSync(path.join(root, WORKERS, `${name}.mjs`))) await bundle(name, folder);
  else await compile(path.join(WORKERS, name), folder);
  return path.join(root, folder);
}

/** Compiles a Worker in Rust with worker-build, the tool that most such Workers are built with. */
async function compile(crate, folder) {
  await setup({ wasm: true, workerBuild: true });
  const build = async () => {
    const { program, env } = workerBuild();
    await run(program, ["--release", "--out-dir", path.relative(crate, folder), crate, "--locked"], { env });
  };
  await make(folder, [...SHARED_INPUTS, crate], build, { takes: "a minute the first time" });
}

/** Bundles a Worker in JavaScript. It is minified, which is to its advantage: wrangler minifies only on request. */
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

/** The sizes in bytes of JavaScript and WebAssembly, and of both together gzipped at level 9. */
export function sizeOf(folder) {
  const [js, wasm] = ["index.js", "index_bg.wasm"].map((file) => {
    const whole = path.join(folder, file);
    return existsSync(whole) ? readFileSync(whole) : Buffer.alloc(0);
  });
  const gzipped = (content) => (content.length === 0 ? 0 : gzipSync(content, { level: 9 }).length);
  return { js: js.length, wasm: wasm.length, gzipped: gzipped(js) + gzipped(wasm) };
}

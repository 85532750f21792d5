/** The loops of bench/core, measured natively and in Node's WebAssembly: the same code, of the same profile. */

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { environment, root, run } from "../scripts/command.mjs";

const MANIFEST = path.join("bench", "core", "Cargo.toml");
const RELEASE = path.join(root, "bench", "core", "target");
const WASM = "wasm32-unknown-unknown";

/** Rounds whose outcomes are compared between the two. */
const CHECKED = 1000;
/** Stretches that the time is cut into; the least of them counts, since other programs only ever add. */
const STRETCHES = 7;

/** Compiles both; a minute from scratch. */
export async function compile() {
  const quiet = ["--quiet", "--locked", "--release", "--manifest-path", MANIFEST];
  await run("cargo", ["build", ...quiet, "--bin", "natively"]);
  // Its crate type is named here: `["cdylib", "rlib"]` would switch link-time optimisation off.
  await run("cargo", ["rustc", ...quiet, "--lib", "--crate-type", "cdylib", "--target", WASM]);
}

/**
 * @typedef {{name: string, size: number, number: number, checksum: string, ns: number, bytes: number}} Measured
 * `number`: the case's, for WebAssembly; `ns`: of processor time that one round takes; `bytes`: of memory that setting it up took
 */

/**
 * Measures natively, each in its own process.
 *
 * @param {[string, number][]} cases by name and size
 * @param {number} seconds to measure each for
 * @returns {Promise<Measured[]>}
 */
export async function natively(cases, seconds) {
  const results = [];
  for (const [name, size] of cases) {
    const args = [String(seconds), String(CHECKED), `${name}:${size}`];
    const { stdout } = await promisify(execFile)(path.join(RELEASE, "release", "natively"), args, { env: environment });
    const { case: measured, ...rest } = JSON.parse(stdout);
    results.push({ name: measured, ...rest });
  }
  return results;
}

/**
 * Measures in WebAssembly what was measured natively, and holds the two together.
 *
 * @param {Measured[]} native
 * @returns {Measured[]} the same in WebAssembly
 */
export function inWasm(native, seconds) {
  const module = new WebAssembly.Module(readFileSync(path.join(RELEASE, WASM, "release", "edge_limiter_bench.wasm")));
  return native.map(({ name, number, size, checksum }) => {
    const { memory, prepare, run: rounds } = new WebAssembly.Instance(module, unused(module)).exports;
    const before = memory.buffer.byteLength;
    if (prepare(number, size) !== 1) throw new Error(`WebAssembly knows no case ${name}`);
    const bytes = memory.buffer.byteLength - before;
    const same = BigInt.asUintN(64, rounds(CHECKED)).toString();
    if (same !== checksum) throw new Error(`${name} of ${size} comes to ${checksum} natively and to ${same} in WebAssembly`);
    return { name, number, size, checksum, bytes, ns: least(rounds, (seconds * 1e9) / STRETCHES) };
  });
}

/** What dependencies would import from wasm-bindgen's JavaScript, which nothing that is measured calls. */
function unused(module) {
  const imports = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    if (kind !== "function") throw new Error(`${from}.${name} is a ${kind}`);
    (imports[from] ??= {})[name] = () => {
      throw new Error(`${from}.${name} was called`);
    };
  }
  return imports;
}

function least(rounds, nanoseconds) {
  const timed = (count) => {
    const started = process.cpuUsage();
    rounds(count);
    const { user, system } = process.cpuUsage(started);
    return (user + system) * 1000;
  };
  let count = 1;
  while (timed(count) < nanoseconds && count < 2 ** 31) count *= 2;
  let best = Infinity;
  for (let stretch = 0; stretch < STRETCHES; stretch += 1) best = Math.min(best, timed(count) / count);
  return best;
}

/** Measures the loops of bench/core natively and as WebAssembly in Node: the same code, compiled with the same profile. */

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { environment, root, run } from "../scripts/command.mjs";

const MANIFEST = path.join("bench", "core", "Cargo.toml");
const RELEASE = path.join(root, "bench", "core", "target");
const WASM = "wasm32-unknown-unknown";

/** The number of rounds whose checksum must be the same natively and in WebAssembly. */
const CHECKED_ROUNDS = 1000;
/** The time is cut into this many stretches. The smallest counts, because other programs can only make a stretch slower. */
const STRETCHES = 7;

/** Compiles both. The first time takes a minute. */
export async function compile() {
  const quiet = ["--quiet", "--locked", "--release", "--manifest-path", MANIFEST];
  await run("cargo", ["build", ...quiet, "--bin", "natively"]);
  // The crate type is set here and not in Cargo.toml, because `["cdylib", "rlib"]` there would turn link-time optimisation off.
  await run("cargo", ["rustc", ...quiet, "--lib", "--crate-type", "cdylib", "--target", WASM]);
}

/**
 * @typedef {{name: string, size: number, number: number, checksum: string, ns: number, bytes: number}} Measured
 * `number`: identifies the case in WebAssembly; `ns`: processor time of one round; `bytes`: memory that the case took to set up
 */

/**
 * Measures cases natively, each in its own process.
 *
 * @param {[string, number][]} cases names and sizes
 * @param {number} seconds how long to measure each
 * @returns {Promise<Measured[]>}
 */
export async function natively(cases, seconds) {
  const results = [];
  for (const [name, size] of cases) {
    const args = [String(seconds), String(CHECKED_ROUNDS), `${name}:${size}`];
    const { stdout } = await promisify(execFile)(path.join(RELEASE, "release", "natively"), args, { env: environment });
    const { case: measured, ...rest } = JSON.parse(stdout);
    results.push({ name: measured, ...rest });
  }
  return results;
}

/**
 * Measures in WebAssembly what was measured natively, and throws if the checksums differ.
 *
 * @param {Measured[]} native
 * @returns {Measured[]} the same cases in WebAssembly
 */
export function inWasm(native, seconds) {
  const module = new WebAssembly.Module(readFileSync(path.join(RELEASE, WASM, "release", "edge_limiter_bench.wasm")));
  return native.map(({ name, number, size, checksum }) => {
    const { memory, prepare, run: rounds } = new WebAssembly.Instance(module, unused(module)).exports;
    const before = memory.buffer.byteLength;
    if (prepare(number, size) !== 1) throw new Error(`the WebAssembly module has no case ${name}`);
    const bytes = memory.buffer.byteLength - before;
    const inWasm = BigInt.asUintN(64, rounds(CHECKED_ROUNDS)).toString();
    if (inWasm !== checksum) throw new Error(`the checksum of ${name} with size ${size} is ${checksum} natively and ${inWasm} in WebAssembly`);
    return { name, number, size, checksum, bytes, ns: smallest(rounds, (seconds * 1e9) / STRETCHES) };
  });
}

/** The functions that dependencies import from wasm-bindgen's JavaScript. Nothing that is measured calls them. */
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

function smallest(rounds, nanoseconds) {
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

/** `node bench/core.mjs [--quick]`: measures decisions per second of the pure core, natively and in WebAssembly. Prints Markdown. */

import { main, say } from "../scripts/command.mjs";
import { setup } from "../scripts/setup.mjs";
import { compile, inWasm, natively } from "./measured.mjs";
import { number, table } from "./table.mjs";

/** The rows: title, and the case of bench/core with its size. */
const ROWS = [
  ["sliding window, allowed, 1 sub-window occupied", "SlidingAllowed", 1],
  ["sliding window, allowed, 60 occupied", "SlidingAllowed", 60],
  ["sliding window, denied, 1 occupied", "SlidingDenied", 1],
  ["sliding window, denied, 60 occupied", "SlidingDenied", 60],
  ["token bucket, allowed", "BucketAllowed", 1],
  ["token bucket, denied", "BucketDenied", 1],
  ["fixed window, allowed", "FixedAllowed", 1],
  ["fixed window, denied", "FixedDenied", 1],
  ["a state's text read and written, 1 occupied", "StateText", 1],
  ["a state's text read and written, 60 occupied", "StateText", 60],
  ["memory store, one quota, 1,000 callers", "MemoryHeld", 1000],
  ["remembered denial, 1,000 callers", "Denial", 1000],
  ["gate: classify, identify, two quotas in memory, 1,000 callers", "Gate", 1000],
];

/**
 * @param {object} [options]
 * @param {boolean} [options.quick] a smoke test, whose figures mean nothing
 * @param {(line: string) => void} [options.say] called with a line of progress
 * @returns {Promise<string>} a section of Markdown
 */
export async function core({ quick = false, say: report = () => {} } = {}) {
  const seconds = quick ? 0.01 : 1;
  report("compiling bench/core, natively and for WebAssembly");
  await compile();
  report("measuring decisions of the pure core, natively");
  const native = await natively(ROWS.map(([, name, size]) => [name, size]), seconds);
  report("measuring the same in WebAssembly");
  const wasm = inWasm(native, seconds);
  const rows = ROWS.map(([what], i) => {
    const [nativeNs, wasmNs] = [native[i].ns, wasm[i].ns];
    return [what, number(nativeNs), number(1e9 / nativeNs), number(wasmNs), number(1e9 / wasmNs), (wasmNs / nativeNs).toFixed(1)];
  });
  return [
    "## The pure core",
    "",
    "One Rust loop on one thread, compiled with the profile that is deployed (`opt-level = \"s\"`, link-time optimisation): natively, and as",
    `WebAssembly in Node ${process.versions.node} (V8 ${process.versions.v8}), without \`wasm-opt\`. Both compute the same checksum. Figures are processor`,
    "time, the smallest of seven stretches.",
    "",
    table(["a decision", "native, ns", "native, per second", "Wasm, ns", "Wasm, per second", "Wasm / native"], rows),
    "",
  ].join("\n");
}

await main(import.meta.url, async (args) => {
  await setup();
  console.log(await core({ quick: args.includes("--quick"), say }));
});

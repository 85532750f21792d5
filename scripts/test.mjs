/**
 * `npm test`: everything that must hold, the library first (natively), then the built Worker in its real runtime, then the
 * page for operators in Chromium.
 *   npm test -- native [FILTER]    cargo's tests, those whose name contains FILTER
 *   npm test -- workers [FILTER]   the *.test.mjs in tests/, the files whose path contains FILTER
 *   npm test -- browser [FILTER]   those in tests/page
 *   npm test -- FILTER             all of them
 * The first stage that fails ends the run and is named.
 */
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { build } from "./build.mjs";
import { Failure, main, root, run, say } from "./command.mjs";
import { setup } from "./setup.mjs";

/** For one test; only a test that hangs takes as long. */
const TIMEOUT_MS = 300_000;

/** Tests that run Prometheus and its tools. */
const OF_PROMETHEUS = [path.join("tests", "ops"), path.join("tests", "control", "metrics.test.mjs")];

/** Where the tests are that need a browser. */
const PAGE = path.join("tests", "page");

await main(import.meta.url, async (args) => {
  const only = ["native", "workers", "browser"].includes(args[0]) ? args[0] : undefined;
  const filter = args[only ? 1 : 0];
  const files = only === "native" ? [] : testFiles().filter((file) => !filter || file.includes(filter));
  const isOfPage = (file) => file.startsWith(PAGE + path.sep);
  const inWorkers = files.filter((file) => only !== "browser" && !isOfPage(file));
  const inBrowser = files.filter((file) => only !== "workers" && isOfPage(file));
  if (only && only !== "native" && inWorkers.length + inBrowser.length === 0) throw new Failure(`no such file in tests/ has a path containing "${filter ?? ""}"`);

  const runs = [...inWorkers, ...inBrowser];
  const prometheus = runs.some((file) => OF_PROMETHEUS.some((part) => file.startsWith(part)));
  await setup({ wasm: runs.length > 0, redis: true, prometheus, chromium: inBrowser.length > 0 });
  if (!only || only === "native") {
    await stage("native tests", () => run("cargo", ["test", "--workspace", "--locked", ...(filter ? [filter] : [])]));
  }
  if (runs.length > 0) await stage("build", () => build());
  for (const [name, chosen] of [["tests in the Workers runtime", inWorkers], ["tests in a browser", inBrowser]]) {
    if (chosen.length > 0) await stage(name, () => run(process.execPath, [...runner(), ...chosen]));
    else if (!only) say(`no file matches: no ${name}`);
  }
});

/** Names the stage before and, should it fail, after. */
async function stage(name, body) {
  say(name);
  try {
    await body();
  } catch (error) {
    throw error instanceof Failure ? new Failure(`${name}: ${error.message}`, error.exitCode) : error;
  }
}

/** Several files at once only where cores are to spare: they start runtimes of their own and measure time. */
function runner() {
  const concurrency = Math.max(1, Math.floor(availableParallelism() / 2));
  return ["--test", "--test-reporter=spec", `--test-concurrency=${concurrency}`, `--test-timeout=${TIMEOUT_MS}`];
}

/** Found by walking, as Node 20 knows no patterns here. tests/load needs programs of its own and is started by hand. */
function testFiles(folder = "tests") {
  return readdirSync(path.join(root, folder), { withFileTypes: true })
    .flatMap((entry) => {
      const file = path.join(folder, entry.name);
      if (entry.isDirectory()) return file === path.join("tests", "load") || entry.name === "node_modules" ? [] : testFiles(file);
      return entry.name.endsWith(".test.mjs") ? [file] : [];
    })
    .sort();
}

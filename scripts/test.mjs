/**
 * `npm test`: runs all tests in four stages: the library natively, the built Worker in its real runtime, the page for operators in
 * Chromium, and the npm package in the runtimes and frameworks that it supports.
 *   npm test -- native [FILTER]    cargo's tests whose name contains FILTER
 *   npm test -- workers [FILTER]   files *.test.mjs in tests/ whose path contains FILTER
 *   npm test -- browser [FILTER]   the same in tests/page
 *   npm test -- package [FILTER]   the same in tests/package and in examples
 *   npm test -- FILTER             all four stages
 * The first stage that fails ends the run, and is named.
 */
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import path from "node:path";
import { build } from "./build.mjs";
import { Failure, main, root, run, say } from "./command.mjs";
import { setup } from "./setup.mjs";

/** The timeout of one test. Only a test that hangs takes this long. */
const TIMEOUT_MS = 300_000;

/** Tests that run Prometheus and its tools. */
const PROMETHEUS_TESTS = [path.join("tests", "ops"), path.join("tests", "control", "metrics.test.mjs")];

/** Tests that need a browser, and tests that need the packed package. */
const PAGE = ["tests/page/"];
const PACKAGE = ["tests/package/", "examples/"];

await main(import.meta.url, async (args) => {
  const only = ["native", "workers", "browser", "package"].includes(args[0]) ? args[0] : undefined;
  const filter = args[only ? 1 : 0];
  const files = [...testFiles("tests"), ...testFiles("examples")].filter((file) => !filter || file.includes(filter));
  const chosen = (stage, isOfIt) => (!only || only === stage ? files.filter(isOfIt) : []);
  const isIn = (folders) => (file) => folders.some((folder) => file.startsWith(path.normalize(folder)));
  const inWorkers = chosen("workers", (file) => !isIn([...PAGE, ...PACKAGE])(file));
  const inBrowser = chosen("browser", isIn(PAGE));
  const inPackage = chosen("package", isIn(PACKAGE));
  const runs = [...inWorkers, ...inBrowser, ...inPackage];
  if (only && only !== "native" && runs.length === 0) throw new Failure(`no test file of the stage ${only} has a path that contains "${filter ?? ""}"`);

  const prometheus = runs.some((file) => PROMETHEUS_TESTS.some((part) => file.startsWith(part)));
  await setup({ wasm: runs.length > 0, redis: true, prometheus, chromium: inBrowser.length > 0, package: inPackage.length > 0 });
  if (!only || only === "native") {
    await stage("native tests", () => run("cargo", ["test", "--workspace", "--locked", ...(filter ? [filter] : [])]));
  }
  if (runs.length > 0) await stage("build", () => build());
  await stageOf("tests in the Workers runtime", inWorkers);
  await stageOf("tests in a browser", inBrowser);
  await stageOf("tests of the npm package", inPackage, () => run(process.execPath, [path.join("scripts", "package.mjs")]));

  async function stageOf(name, chosen, prepare) {
    if (chosen.length === 0) return only || say(`no file matches, so no ${name} run`);
    await stage(name, async () => {
      await prepare?.();
      await run(process.execPath, [...runner(), ...chosen]);
    });
  }
});

/** Runs a stage. Prints its name first, and puts it into the message of a failure. */
async function stage(name, body) {
  say(name);
  try {
    await body();
  } catch (error) {
    throw error instanceof Failure ? new Failure(`${name}: ${error.message}`, error.exitCode) : error;
  }
}

/** Node's test runner with its options. Test files run in parallel only on half of the cores, because they start runtimes and measure time. */
function runner() {
  const concurrency = Math.max(1, Math.floor(availableParallelism() / 2));
  return ["--test", "--test-reporter=spec", `--test-concurrency=${concurrency}`, `--test-timeout=${TIMEOUT_MS}`];
}

/** The test files in a folder. Node 20's runner takes no patterns. tests/load is left out: it needs Artillery and is started by hand. */
function testFiles(folder) {
  return readdirSync(path.join(root, folder), { withFileTypes: true })
    .flatMap((entry) => {
      const file = path.join(folder, entry.name);
      if (entry.isDirectory()) return file === path.join("tests", "load") || entry.name === "node_modules" ? [] : testFiles(file);
      return entry.name.endsWith(".test.mjs") ? [file] : [];
    })
    .sort();
}

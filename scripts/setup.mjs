/**
 * Installs what the other scripts need. Every npm command calls `setup` first, so that a fresh clone needs only git, rustup and
 * Node. If nothing is missing, it takes a few hundredths of a second.
 * Scripts may import only node's own modules at the top, because node_modules may not exist yet.
 */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Failure, environment, main, output, root, run, say } from "./command.mjs";
import { ensurePrograms } from "./programs.mjs";

/** The version of worker-build, the usual tool, with which the bench's Workers in Rust are built. wasm-bindgen's version is read from Cargo.lock. */
const WORKER_BUILD_VERSION = "0.8.7";

/** Two separate npm projects, with what only the load tests need, and what only the tests of the npm package need. */
const LOAD = path.join(root, "tests", "load");
const PACKAGE = path.join(root, "tests", "package");

const tools = path.join(root, ".tools");
const read = (file) => readFileSync(path.join(root, file), "utf8");

/**
 * Makes sure that node_modules and the Rust toolchain are installed, and what the options ask for: `wasm`, the programs that build the
 * Worker's module; `redis`, a redis-server; `prometheus`, Prometheus and Alertmanager with their tools; `chromium`;
 * `workerBuild`, for the bench; `load`, Artillery; `package`, the runtimes and frameworks in which the npm package is tested.
 *
 * What is missing is installed in parallel, because a single step seldom keeps all cores busy. `alongside` is work that needs
 * only the toolchain. It runs in parallel with the installation; if nothing has to be installed, it does not run.
 */
export async function setup({ wasm = false, redis = false, prometheus = false, chromium = false, workerBuild = false, load = false, package: inPackage = false, alongside } = {}) {
  if (Number(process.versions.node.split(".")[0]) < 20) {
    throw new Failure(`Node 20 or newer is needed, this is ${process.versions.node}: install a newer one from https://nodejs.org/`);
  }
  if (wasm) checkVersions();
  const steps = [
    [() => nodeModulesAreCurrent(root), () => installNodeModules(root, "wrangler, esbuild, binaryen and what the tests use (about 20 seconds)")],
    ...(wasm ? [[() => existsSync(bindgen()), buildBindgen]] : []),
    ...(workerBuild ? [[() => findWasmBindgen(), installWasmBindgen], [() => findWorkerBuild(), installWorkerBuild]] : []),
    ...(load ? [[() => nodeModulesAreCurrent(LOAD), () => installNodeModules(LOAD, "Artillery (590 MB in tests/load, about a minute)")]] : []),
    ...(inPackage ? [[() => nodeModulesAreCurrent(PACKAGE), () => installNodeModules(PACKAGE, "Next.js, Deno, Bun and more, for the tests of the npm package (620 MB in tests/package, half a minute)")]] : []),
  ];
  const missing = () => steps.filter(([isDone]) => !isDone()).map(([, install]) => install);
  if (!toolchainIsInstalled() || missing().length > 0) {
    await locked(async () => {
      if (!toolchainIsInstalled()) await installToolchain();
      const jobs = missing();
      if (jobs.length > 0 && alongside) jobs.push(alongside);
      await allOf(jobs);
    });
  }
  const programs = { redis, prometheus, chromium };
  await ensurePrograms(Object.keys(programs).filter((name) => programs[name]));
}

/** Runs all `jobs` to their ends and then throws the first failure, so that its message is printed last. */
async function allOf(jobs) {
  const results = await Promise.allSettled(jobs.map((job) => job()));
  const failed = results.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

/** The paths of the programs that build the Worker's module. The lock files fix their versions. */
export function wasmTools() {
  const bin = (name) => path.join(root, "node_modules", ".bin", name);
  return { bindgen: bindgen(), wasmOpt: bin("wasm-opt"), esbuild: bin("esbuild") };
}

/** worker-build, and an environment that keeps it from downloading programs itself. Call `setup({ wasm: true, workerBuild: true })` first. */
export function workerBuild() {
  const { wasmOpt, esbuild } = wasmTools();
  // No backtrace of worker-build, which would bury the compiler's errors.
  const env = { WASM_BINDGEN_BIN: findWasmBindgen(), WASM_OPT_BIN: wasmOpt, ESBUILD_BIN: esbuild, RUST_BACKTRACE: "0" };
  return { program: findWorkerBuild(), env };
}

/** Whether node_modules agrees with the lock file. npm keeps a copy of the lock file there, without packages for other platforms. */
function nodeModulesAreCurrent(folder) {
  const copy = path.join(folder, "node_modules", ".package-lock.json");
  if (!existsSync(copy)) return false;
  const installed = JSON.parse(readFileSync(copy, "utf8")).packages;
  const wanted = JSON.parse(readFileSync(path.join(folder, "package-lock.json"), "utf8")).packages;
  const same = (name) => wanted[name]?.version === installed[name].version && wanted[name]?.integrity === installed[name].integrity;
  return (
    Object.keys(installed).every(same) &&
    Object.keys(wanted).every((name) => name === "" || wanted[name].optional || name in installed)
  );
}

async function installNodeModules(folder, what) {
  say(`npm packages: ${what}`);
  const npm = process.env.npm_execpath;
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error"];
  await (npm?.endsWith(".js") ? run(process.execPath, [npm, ...args], { cwd: folder }) : run("npm", args, { cwd: folder }));
}

/** The channel, targets and components in rust-toolchain.toml. */
function toolchain() {
  const text = read("rust-toolchain.toml");
  const list = (key) => [...(text.match(new RegExp(`^${key}\\s*=\\s*\\[([^\\]]*)\\]`, "m"))?.[1] ?? "").matchAll(/"([^"]+)"/g)].map((match) => match[1]);
  return { channel: text.match(/^channel\s*=\s*"([^"]+)"/m)[1], targets: list("targets"), components: list("components") };
}

function toolchainIsInstalled() {
  const { channel, targets, components } = toolchain();
  const installed = output("rustup", ["component", "list", "--installed", "--toolchain", channel])?.split("\n");
  return (
    installed !== undefined &&
    targets.every((target) => installed.includes(`rust-std-${target}`)) &&
    components.every((component) => installed.some((name) => name.startsWith(`${component}-`)))
  );
}

/** Installs the toolchain explicitly, because not every rustup installs what rust-toolchain.toml names on its own. */
async function installToolchain() {
  if (output("rustup", ["--version"]) === undefined) {
    throw new Failure("rustup is not installed. It provides the Rust compiler. Install it from https://rustup.rs/");
  }
  const { channel, targets, components } = toolchain();
  say(`Rust ${channel} for ${targets.join(", ")}, with ${components.join(" and ")} (about a minute)`);
  await run("rustup", ["toolchain", "install", channel, "--profile", "minimal", "--no-self-update"]);
  if (components.length) await run("rustup", ["component", "add", "--toolchain", channel, ...components]);
  if (targets.length) await run("rustup", ["target", "add", "--toolchain", channel, ...targets]);
}

/** The version of wasm-bindgen with which the Worker is compiled. The program that processes the module must have exactly the same version. */
function wasmBindgenVersion() {
  return read("Cargo.lock").match(/name = "wasm-bindgen"\nversion = "([^"]+)"/)[1];
}

/**
 * Throws unless both versions of wasm-bindgen are the same. Checked even if everything is installed, because wasm-bindgen's own error tells
 * the reader to update a program that is not used here.
 */
export function checkVersions() {
  const version = wasmBindgenVersion();
  const manifest = path.join("tools", "bindgen", "Cargo.toml");
  const other = read(manifest).match(/^wasm-bindgen-cli-support = "([^"]+)"/m)?.[1];
  if (other !== `=${version}`) {
    throw new Failure(
      `${manifest} has wasm-bindgen-cli-support ${other}, but Cargo.lock has wasm-bindgen ${version}. Set =${version} in ${manifest}, then run:\n` +
        `cargo metadata --format-version 1 --manifest-path ${manifest} > /dev/null`,
    );
  }
}

const findWorkerBuild = () => find("worker-build", WORKER_BUILD_VERSION);
const findWasmBindgen = () => find("wasm-bindgen", wasmBindgenVersion());

/** The path of the compiled `tools/bindgen`. Its name contains a hash of its sources, so that a change compiles it again. */
function bindgen() {
  const hash = createHash("sha256");
  for (const file of ["Cargo.toml", "Cargo.lock", "src/main.rs"]) hash.update(read(path.join("tools", "bindgen", file)));
  return path.join(tools, "bin", `bindgen-${hash.digest("hex").slice(0, 16)}`);
}

/** The full path of a program with exactly this version, in `.tools` or on PATH. */
function find(name, version) {
  const folders = [path.join(tools, "bin"), ...environment.PATH.split(path.delimiter)];
  return folders
    .map((folder) => path.join(folder, name))
    .find((program) => existsSync(program) && output(program, ["--version"])?.split(" ").at(-1) === version);
}

async function installWorkerBuild() {
  say(`worker-build ${WORKER_BUILD_VERSION}, which builds the bench's Workers in Rust (compiled once into .tools/, about 3 minutes on 2 cores)`);
  await run("cargo", ["install", "--quiet", "--locked", "--root", tools, "worker-build", "--version", `=${WORKER_BUILD_VERSION}`]);
}

/** Installs without `--locked`, because the lock file of wasm-bindgen-cli names a version that has been withdrawn. */
async function installWasmBindgen() {
  const version = wasmBindgenVersion();
  say(`wasm-bindgen ${version}, which worker-build needs (compiled once into .tools/, about 2.5 minutes on 2 cores)`);
  await run("cargo", ["install", "--quiet", "--root", tools, "--force", "wasm-bindgen-cli", "--version", `=${version}`, "--bin", "wasm-bindgen"]);
}

async function buildBindgen() {
  const manifest = path.join("tools", "bindgen", "Cargo.toml");
  say("tools/bindgen, which writes the JavaScript that loads the module (compiled once into .tools/, about a minute on 2 cores)");
  const folder = path.join(tools, "bindgen");
  await run("cargo", ["build", "--quiet", "--release", "--locked", "--manifest-path", manifest, "--target-dir", folder]);
  mkdirSync(path.join(tools, "bin"), { recursive: true });
  copyFileSync(path.join(folder, "release", "edge-limiter-bindgen"), bindgen());
  rmSync(folder, { recursive: true });
}

/** Holds a lock while `body` runs. Of two commands started at once on a fresh clone, the second waits until the first has installed everything. */
async function locked(body) {
  const lock = path.join(tools, "setup.lock");
  mkdirSync(tools, { recursive: true });
  for (let waiting = false; ; ) {
    try {
      writeFileSync(lock, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
      if (!isHeld(lock)) rmSync(lock, { force: true });
      else if (!waiting) say(`another command is setting up (${path.relative(root, lock)}); waiting for it`);
      waiting = true;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
  try {
    await body();
  } finally {
    rmSync(lock, { force: true });
  }
}

/** Whether the process that wrote the lock still runs. A process that was killed leaves its lock behind. */
function isHeld(lock) {
  try {
    process.kill(Number(readFileSync(lock, "utf8")) || -1, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

await main(import.meta.url, () => setup({ wasm: true, redis: process.argv.includes("--redis") }));

/**
 * What must be on this machine before anything else runs. Every npm command calls `setup` first, so that a fresh
 * clone needs git, rustup and Node only; when all is there it costs a few hundredths of a second.
 * Only node's own modules may be imported at the top of the scripts: node_modules may not exist yet.
 */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { Failure, environment, main, output, root, run, say } from "./command.mjs";
import { ensurePrograms } from "./programs.mjs";

/** What the bench's Workers in Rust are built with, as is usual; wasm-bindgen's version is read from Cargo.lock. */
const WORKER_BUILD = "0.8.7";

/** What only the load tests need is a package of its own, and so is what the npm package is tried in. */
const LOAD = path.join(root, "tests", "load");
const PACKAGE = path.join(root, "tests", "package");

const tools = path.join(root, ".tools");
const read = (file) => readFileSync(path.join(root, file), "utf8");

/**
 * Makes sure of node_modules and the Rust toolchain, and of what is asked for beyond: `wasm`, the programs that make the
 * Worker's module; `redis`, a redis-server; `prometheus`, Prometheus and Alertmanager with their tools; `chromium`;
 * `workerBuild`, for the bench; `load`, Artillery; `package`, the runtimes and frameworks that the npm package is tried in.
 *
 * What is missing is installed at the same time, as the steps seldom keep all cores busy. `alongside` is work that needs
 * only the toolchain: it is started with them if there is anything to install, and otherwise left to the caller.
 */
export async function setup({ wasm = false, redis = false, prometheus = false, chromium = false, workerBuild = false, load = false, package: inPackage = false, alongside } = {}) {
  if (Number(process.versions.node.split(".")[0]) < 20) {
    throw new Failure(`Node 20 or newer is needed, this is ${process.versions.node}: https://nodejs.org/`);
  }
  if (wasm) checkVersions();
  const steps = [
    [() => nodeModulesAreCurrent(root), () => installNodeModules(root, "wrangler, esbuild, binaryen and what the tests use (about 20 seconds)")],
    ...(wasm ? [[() => existsSync(bindgen()), buildBindgen]] : []),
    ...(workerBuild ? [[() => findWasmBindgen(), installWasmBindgen], [() => findWorkerBuild(), installWorkerBuild]] : []),
    ...(load ? [[() => nodeModulesAreCurrent(LOAD), () => installNodeModules(LOAD, "Artillery (590 MB in tests/load, about a minute)")]] : []),
    ...(inPackage ? [[() => nodeModulesAreCurrent(PACKAGE), () => installNodeModules(PACKAGE, "Next.js, Deno, Bun and what else tries the npm package (620 MB in tests/package, half a minute)")]] : []),
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

/** Runs all `jobs` to their ends before the first failure is thrown, so that its message comes last. */
async function allOf(jobs) {
  const results = await Promise.allSettled(jobs.map((job) => job()));
  const failed = results.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

/** Where the programs are that make the Worker's module, at the versions of the two lock files. */
export function wasmTools() {
  const bin = (name) => path.join(root, "node_modules", ".bin", name);
  return { bindgen: bindgen(), wasmOpt: bin("wasm-opt"), esbuild: bin("esbuild") };
}

/** worker-build, and what keeps it from downloading programs of its own. Needs `setup({ wasm: true, workerBuild: true })`. */
export function workerBuild() {
  const { wasmOpt, esbuild } = wasmTools();
  // A stack trace of its own would bury the compiler's errors.
  const env = { WASM_BINDGEN_BIN: findWasmBindgen(), WASM_OPT_BIN: wasmOpt, ESBUILD_BIN: esbuild, RUST_BACKTRACE: "0" };
  return { program: findWorkerBuild(), env };
}

/** npm leaves a copy of the lock file, without what this platform does not need, in node_modules: the two must agree. */
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

/** rust-toolchain.toml, as far as it matters here. */
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

/** Asked for by name: rustup does not everywhere install by itself what rust-toolchain.toml names. */
async function installToolchain() {
  if (output("rustup", ["--version"]) === undefined) {
    throw new Failure("rustup is not installed. It provides the Rust compiler this project is built with: https://rustup.rs/");
  }
  const { channel, targets, components } = toolchain();
  say(`Rust ${channel} for ${targets.join(", ")}, with ${components.join(" and ")} (about a minute)`);
  await run("rustup", ["toolchain", "install", channel, "--profile", "minimal", "--no-self-update"]);
  if (components.length) await run("rustup", ["component", "add", "--toolchain", channel, ...components]);
  if (targets.length) await run("rustup", ["target", "add", "--toolchain", channel, ...targets]);
}

/** The version that the Worker is compiled with; what reads its module must be of the very same one. */
function wasmBindgenVersion() {
  return read("Cargo.lock").match(/name = "wasm-bindgen"\nversion = "([^"]+)"/)[1];
}

/** Checked even when all is installed: what wasm-bindgen itself says of two versions names a program that is not used here. */
export function checkVersions() {
  const version = wasmBindgenVersion();
  const manifest = path.join("tools", "bindgen", "Cargo.toml");
  const other = read(manifest).match(/^wasm-bindgen-cli-support = "([^"]+)"/m)?.[1];
  if (other !== `=${version}`) {
    throw new Failure(
      `${manifest} has wasm-bindgen-cli-support ${other}, Cargo.lock has wasm-bindgen ${version}. Name =${version} there, then:\n` +
        `cargo metadata --format-version 1 --manifest-path ${manifest} > /dev/null`,
    );
  }
}

const findWorkerBuild = () => find("worker-build", WORKER_BUILD);
const findWasmBindgen = () => find("wasm-bindgen", wasmBindgenVersion());

/** `tools/bindgen`, compiled: what it is made from is in its name. */
function bindgen() {
  const hash = createHash("sha256");
  for (const file of ["Cargo.toml", "Cargo.lock", "src/main.rs"]) hash.update(read(path.join("tools", "bindgen", file)));
  return path.join(tools, "bin", `bindgen-${hash.digest("hex").slice(0, 16)}`);
}

/** The full path of a program of exactly this version, in `.tools` or else on PATH. */
function find(name, version) {
  const folders = [path.join(tools, "bin"), ...environment.PATH.split(path.delimiter)];
  return folders
    .map((folder) => path.join(folder, name))
    .find((program) => existsSync(program) && output(program, ["--version"])?.split(" ").at(-1) === version);
}

async function installWorkerBuild() {
  say(`worker-build ${WORKER_BUILD}, which builds the bench's Workers in Rust (compiled once into .tools/, about 3 minutes on 2 cores)`);
  await run("cargo", ["install", "--quiet", "--locked", "--root", tools, "worker-build", "--version", `=${WORKER_BUILD}`]);
}

/** Without `--locked`: the lock file of wasm-bindgen-cli names a version that was withdrawn since. */
async function installWasmBindgen() {
  const version = wasmBindgenVersion();
  say(`wasm-bindgen ${version}, which worker-build wants (compiled once into .tools/, about 2.5 minutes on 2 cores)`);
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

/** Two commands started at once on a fresh clone must not install over each other: the second waits for the first. */
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

/** Whether the process that wrote the lock still runs: one that was killed leaves its lock behind. */
function isHeld(lock) {
  try {
    process.kill(Number(readFileSync(lock, "utf8")) || -1, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

await main(import.meta.url, () => setup({ wasm: true, redis: process.argv.includes("--redis") }));

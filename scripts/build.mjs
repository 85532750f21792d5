/**
 * `npm run build [-- --force]`: compiles `worker/` and leaves what Cloudflare runs, `index.js` and its `.wasm`, in `build/`.
 * `wrangler` runs this too, at its start and whenever a source changes, so it ends at once when there is nothing to do:
 * cargo would see that by itself, wasm-bindgen and wasm-opt would not.
 */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { main, root, run, say } from "./command.mjs";
import { setup, wasmTools } from "./setup.mjs";

/** All that the module is made from; folders count with everything in them. */
const INPUTS = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "package-lock.json", ".cargo", "src", "worker", "scripts/build.mjs", "scripts/setup.mjs"];
/** What `wrangler` uploads: all the JavaScript in one file. */
const OUTPUTS = ["build/index.js", "build/index_bg.wasm"];
const STAMP = path.join(root, "build", ".stamp");

export async function build({ force = false } = {}) {
  await setup({ wasm: true });
  const inputs = digest(INPUTS);
  if (!force && isCurrent(inputs)) {
    say("build/ is current");
    return;
  }
  say("compiling the Worker into build/ (a minute or two from scratch, some seconds after that)");
  const tools = wasmTools();
  await run("cargo", ["build", "--release", "--lib", "--package", "edge-limiter-worker", "--target", TARGET, "--locked"]);
  const module = path.join(root, "target", TARGET, "release", "edge_limiter_worker.wasm");
  await run(tools.wasmBindgen, [module, "--target", "module", "--out-dir", STAGE, "--out-name", "index", "--no-typescript", ...RECOVERY]);
  mkdirSync(path.join(root, "build"), { recursive: true });
  await optimise(tools.wasmOpt);
  await bundle(tools.esbuild);
  // Of the inputs as they were before: an edit made while compiling is compiled next time.
  writeFileSync(STAMP, stamp(inputs));
  const { files, total } = measure();
  say(`${files.map((file) => `${file.name} ${kilobytes(file.raw)}`).join(", ")}; gzipped ${kilobytes(total)} together`);
}

const TARGET = "wasm32-unknown-unknown";
/** What wasm-bindgen writes, before it is optimised and bundled. */
const STAGE = path.join(root, "target", "stage");
/** After a panic, which aborts: how worker/js/entry.js starts a new instance, and what keeps others out of the old one. */
const RECOVERY = ["--experimental-reset-state-function", "--force-enable-abort-handler"];

/**
 * Features by name, so that a newer binaryen emits nothing that workerd does not know yet. Function names are an eighth of
 * the gzipped module; a panic says where it was without them.
 */
const FEATURES = ["bulk-memory", "exception-handling", "multivalue", "mutable-globals", "nontrapping-float-to-int", "reference-types", "sign-ext"];

async function optimise(wasmOpt) {
  const features = FEATURES.map((feature) => `--enable-${feature}`);
  const output = path.join(root, "build", "index_bg.wasm");
  await run(wasmOpt, [path.join(STAGE, "index_bg.wasm"), "-Oz", "--strip-debug", "--strip-producers", ...features, "-o", output]);
}

/** The glue and the Worker's own JavaScript, as one module beside the Wasm. */
async function bundle(esbuild) {
  const glue = path.join(STAGE, "index.js");
  // A proposal that workerd does not read yet; there, importing a `.wasm` gives its module in any case.
  writeFileSync(glue, readFileSync(glue, "utf8").replace("import source ", "import "));
  for (const file of ["entry.js", "microtasks.js"]) copyFileSync(path.join(root, "worker", "js", file), path.join(STAGE, file));
  await run(esbuild, [
    path.join(STAGE, "entry.js"), "--bundle", "--format=esm", "--minify", "--external:./index_bg.wasm", "--external:cloudflare:*",
    `--inject:${path.join(STAGE, "microtasks.js")}`, `--outfile=${path.join(root, "build", "index.js")}`, "--log-level=warning",
  ]);
}

function isCurrent(inputs) {
  return existsSync(STAMP) && OUTPUTS.every((file) => existsSync(path.join(root, file))) && readFileSync(STAMP, "utf8") === stamp(inputs);
}

/** What was built from what: a `build/` that something else wrote does not count as current. */
function stamp(inputs) {
  return `${inputs} ${digest(OUTPUTS)}\n`;
}

/** One hash over the names and contents of files and folders. */
function digest(names) {
  const hash = createHash("sha256");
  for (const name of names) add(path.join(root, name));
  return hash.digest("hex");

  function add(file) {
    if (!existsSync(file)) return;
    const entries = folderEntries(file);
    if (entries) {
      for (const entry of entries.sort()) if (entry !== "target") add(path.join(file, entry));
    } else {
      const content = readFileSync(file);
      hash.update(`${path.relative(root, file)}\0${content.length}\0`).update(content);
    }
  }
}

function folderEntries(file) {
  try {
    return readdirSync(file);
  } catch (error) {
    if (error.code === "ENOTDIR") return undefined;
    throw error;
  }
}

/** The sizes of what is uploaded, as they are and gzipped at level 9. */
export function measure() {
  const files = OUTPUTS.map((name) => {
    const content = readFileSync(path.join(root, name));
    return { name, raw: content.length, gzipped: gzipSync(content, { level: 9 }).length };
  });
  return { files, total: files.reduce((sum, file) => sum + file.gzipped, 0) };
}

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;

await main(import.meta.url, (args) => build({ force: args.includes("--force") }));

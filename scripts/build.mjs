/**
 * `npm run build [-- --force]`: compiles `worker/` and writes what Cloudflare runs to `build/`: `index.js`, its `.wasm`, and
 * the files of the page for operators as a separate module.
 * `wrangler` runs this too, at its start and whenever a source changes. So it ends at once when nothing has changed:
 * cargo notices that itself, but wasm-bindgen and wasm-opt do not.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { STAGE, WASM, bundle } from "./bundle.mjs";
import { main, root, run, say } from "./command.mjs";
import { setup, wasmTools } from "./setup.mjs";

/** Files that every module depends on. A folder stands for everything in it. */
const ALWAYS = ["rust-toolchain.toml", "package-lock.json", ".cargo", "scripts/build.mjs", "scripts/bundle.mjs", "scripts/setup.mjs"];
const INPUTS = ["Cargo.toml", "Cargo.lock", "src", "worker", "npm/src", "tools/bindgen"];
/** What `wrangler` uploads: all the JavaScript that answers requests, in one file, and the WebAssembly. */
const OUTPUTS = ["index.js", "index_bg.wasm"];
/** `wrangler` also uploads the page's files. This module is loaded when one of them is first requested. */
export const PAGE_FILES = "page_files.js";

export async function build({ force = false, redis = false } = {}) {
  await setup({ wasm: true, redis, alongside: firstCompile });
  await buildPage();
  const isCurrent = await make("build", INPUTS, compile, { force, takes: "one or two minutes the first time, then some seconds" });
  if (isCurrent) {
    say("build/ is up to date");
    return;
  }
  const { files, total } = measure();
  say(`${files.map((file) => `${file.name} ${kilobytes(file.raw)}`).join(", ")}; together ${kilobytes(total)} gzipped`);
}

/**
 * Builds a Worker in Rust, unless it is up to date already.
 *
 * @param {string} folder where `index.js` and `index_bg.wasm` are written
 * @param {string[]} inputs the files they are made from, besides `ALWAYS`
 * @param {() => Promise<void>} compile
 * @param {{force?: boolean, takes: string}} options `takes`: how long it takes, as a text for the person who waits
 * @returns {Promise<boolean>} whether it was up to date
 */
export async function make(folder, inputs, compile, { force = false, takes }) {
  const inputsDigest = digest([...inputs, ...ALWAYS]);
  const outputs = OUTPUTS.map((file) => path.join(folder, file));
  const stampFile = path.join(root, folder, ".stamp");
  // The stamp covers inputs and outputs: if something else has overwritten an output, the folder is not up to date.
  const stamp = () => `${inputsDigest} ${digest(outputs)}\n`;
  const exist = [stampFile, ...outputs.map((file) => path.join(root, file))].every((file) => existsSync(file));
  if (!force && exist && readFileSync(stampFile, "utf8") === stamp()) return true;
  say(`compiling into ${folder}/ (${takes})`);
  await compile();
  // The inputs' digest is from before the compilation, so an edit made meanwhile is compiled next time.
  writeFileSync(stampFile, stamp());
  return false;
}

/**
 * Bundles `page/` and writes its files as a module of texts, so that any host can load them without further tools. Bundling is faster
 * than finding out whether anything has changed. An unchanged module is not written again, because `wrangler` watches it.
 */
export async function buildPage() {
  const esbuild = await import("esbuild");
  const { outputFiles } = await esbuild.build({
    absWorkingDir: root,
    entryPoints: ["page/page.js", "page/page.css", "page/page.html"],
    outdir: "page",
    write: false,
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    loader: { ".html": "copy" },
    logLevel: "warning",
  });
  const files = outputFiles.map(({ path: file, text }) => {
    const etag = `"${createHash("sha256").update(text).digest("hex").slice(0, 16)}"`;
    return [path.basename(file), { etag, text }];
  });
  const module = `export const files = ${JSON.stringify(Object.fromEntries(files.sort()))};\n`;
  const file = path.join(root, "build", PAGE_FILES);
  if (existsSync(file) && readFileSync(file, "utf8") === module) return;
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, module);
}

/** Compiles the Worker. It needs nothing but the Rust toolchain, so the first set-up runs it while other programs are installed. */
async function compileRust() {
  await run("cargo", ["build", "--release", "--lib", "--package", "edge-limiter-worker", "--target", TARGET, "--locked"]);
}

function firstCompile() {
  say("meanwhile, compiling the Worker in Rust (about two minutes on 2 cores, together with the installation)");
  return compileRust();
}

async function compile() {
  const tools = wasmTools();
  await compileRust();
  const module = path.join(root, "target", TARGET, "release", "edge_limiter_worker.wasm");
  await run(tools.bindgen, [module, STAGE]);
  mkdirSync(path.join(root, "build"), { recursive: true });
  await optimise(tools.wasmOpt);
  await bundleWorker();
}

const TARGET = "wasm32-unknown-unknown";

/**
 * The WebAssembly features that wasm-opt may use. They are listed so that a newer binaryen emits nothing that workerd does not know yet.
 * `--strip-debug` removes function names, which are an eighth of the gzipped module. A panic's message says where it happened without them.
 */
const FEATURES = ["bulk-memory", "multivalue", "mutable-globals", "nontrapping-float-to-int", "reference-types", "sign-ext"];

async function optimise(wasmOpt) {
  const features = FEATURES.map((feature) => `--enable-${feature}`);
  await run(wasmOpt, [path.join(STAGE, "index_bg.wasm"), "-Oz", "--strip-debug", "--strip-producers", ...features, "-o", WASM]);
}

/** Bundles wasm-bindgen's JavaScript and the Worker's own as one module next to the `.wasm`. */
async function bundleWorker() {
  const glue = path.join(STAGE, "index.js");
  // `import source` is a proposal that runtimes do not support yet.
  writeFileSync(glue, readFileSync(glue, "utf8").replace("import source ", "import "));
  const host = { entries: { index: "worker.js" }, outdir: "build", wasm: "./index_bg.wasm", page: `./${PAGE_FILES}`, transport: "sockets.js" };
  await bundle(host, { minify: true });
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

/** The sizes of the uploaded files in bytes, raw and gzipped at level 9. `total` is the Worker without the page, gzipped. */
export function measure() {
  const size = (file) => {
    const name = path.join("build", file);
    const content = readFileSync(path.join(root, name));
    return { name, raw: content.length, gzipped: gzipSync(content, { level: 9 }).length };
  };
  const files = OUTPUTS.map(size);
  return { files, total: files.reduce((sum, file) => sum + file.gzipped, 0), page: size(PAGE_FILES) };
}

const kilobytes = (bytes) => `${(bytes / 1000).toFixed(1)} kB`;

await main(import.meta.url, (args) => build({ force: args.includes("--force") }));

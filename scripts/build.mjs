/**
 * `npm run build [-- --force]`: compiles `worker/` and leaves what Cloudflare runs in `build/`: `index.js`, its `.wasm`, and
 * the files of the page for operators as a module of their own.
 * `wrangler` runs this too, at its start and whenever a source changes, so it ends at once when there is nothing to do:
 * cargo would see that by itself, wasm-bindgen and wasm-opt would not.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { STAGE, WASM, bundle } from "./bundle.mjs";
import { main, root, run, say } from "./command.mjs";
import { setup, wasmTools } from "./setup.mjs";

/** What every module is made with, and from; folders count with everything in them. */
const ALWAYS = ["rust-toolchain.toml", "package-lock.json", ".cargo", "scripts/build.mjs", "scripts/bundle.mjs", "scripts/setup.mjs"];
const INPUTS = ["Cargo.toml", "Cargo.lock", "src", "worker", "npm/src", "tools/bindgen"];
/** What `wrangler` uploads: all the JavaScript that answers requests in one file. */
const OUTPUTS = ["index.js", "index_bg.wasm"];
/** And the page's files, which are loaded when one of them is asked for. */
export const PAGE_FILES = "page_files.js";

export async function build({ force = false, redis = false } = {}) {
  await setup({ wasm: true, redis, alongside: firstCompile });
  await buildPage();
  const current = await make("build", INPUTS, compile, { force, takes: "a minute or two from scratch, some seconds after that" });
  if (current) {
    say("build/ is current");
    return;
  }
  const { files, total } = measure();
  say(`${files.map((file) => `${file.name} ${kilobytes(file.raw)}`).join(", ")}; gzipped ${kilobytes(total)} together`);
}

/**
 * Makes a Worker in Rust, and says whether there was nothing to do.
 *
 * @param {string} folder where `index.js` and `index_bg.wasm` go
 * @param {string[]} inputs what they are made from, beyond what all are
 * @param {() => Promise<void>} how
 * @param {{force?: boolean, takes: string}} options `takes`: how long, for who waits
 */
export async function make(folder, inputs, how, { force = false, takes }) {
  const from = digest([...inputs, ...ALWAYS]);
  const outputs = OUTPUTS.map((file) => path.join(folder, file));
  const stampFile = path.join(root, folder, ".stamp");
  // What was built from what: a folder that something else wrote does not count as current.
  const stamp = () => `${from} ${digest(outputs)}\n`;
  const exist = [stampFile, ...outputs.map((file) => path.join(root, file))].every((file) => existsSync(file));
  if (!force && exist && readFileSync(stampFile, "utf8") === stamp()) return true;
  say(`compiling into ${folder}/ (${takes})`);
  await how();
  // Of the inputs as they were before: an edit made while compiling is compiled next time.
  writeFileSync(stampFile, stamp());
  return false;
}

/**
 * Bundles `page/` and writes its files as a module of texts, so that any host can load them without further tools. It takes
 * less than it would take to find out whether there is anything to do; an unchanged module is left alone, since `wrangler`
 * watches it.
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

/** Needs no other program than Rust's own, so a first set-up runs it alongside. */
async function compileRust() {
  await run("cargo", ["build", "--release", "--lib", "--package", "edge-limiter-worker", "--target", TARGET, "--locked"]);
}

function firstCompile() {
  say("the Worker in Rust, at the same time (about two minutes on 2 cores, with the rest)");
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
 * Features by name, so that a newer binaryen emits nothing that workerd does not know yet. Function names are an eighth of
 * the gzipped module; a panic says where it was without them.
 */
const FEATURES = ["bulk-memory", "multivalue", "mutable-globals", "nontrapping-float-to-int", "reference-types", "sign-ext"];

async function optimise(wasmOpt) {
  const features = FEATURES.map((feature) => `--enable-${feature}`);
  await run(wasmOpt, [path.join(STAGE, "index_bg.wasm"), "-Oz", "--strip-debug", "--strip-producers", ...features, "-o", WASM]);
}

/** The glue and the Worker's own JavaScript, as one module beside the Wasm. */
async function bundleWorker() {
  const glue = path.join(STAGE, "index.js");
  // A proposal that runtimes do not read yet.
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

/** The sizes of what is uploaded, as they are and gzipped at level 9: together that of the Worker, apart that of the page. */
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

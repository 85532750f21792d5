/** Bundles the JavaScript of `npm/src` with wasm-bindgen's output for one host. */
import path from "node:path";
import { root } from "./command.mjs";

const SOURCE = path.join(root, "npm", "src");

/** The folder to which tools/bindgen writes `index.js` and `index_bg.wasm`, which is not optimised yet. */
export const STAGE = path.join(root, "target", "stage");

/** The optimised module. */
export const WASM = path.join(root, "build", "index_bg.wasm");

/**
 * @param {object} host
 * @param {Record<string, string>} host.entries for each output's name, the file in `npm/src` that it is made from
 * @param {string} host.outdir
 * @param {string} [host.wasm] the specifier by which the `.wasm` is imported; without it, the module's bytes are in the JavaScript
 * @param {string} host.page the specifier by which the page's files are imported
 * @param {string} [host.platform] a file in `npm/src/platform`
 * @param {string} host.transport a file in `npm/src/transport`, which reaches Redis over TCP where the host can
 * @param {import("esbuild").BuildOptions} [options]
 */
export async function bundle({ entries, outdir, wasm, page, platform, transport }, options = {}) {
  const esbuild = await import("esbuild");
  const source = (file) => ({ path: path.join(SOURCE, file) });
  const outside = (name) => ({ path: name, external: true });
  const links = {
    name: "links",
    setup({ onResolve }) {
      onResolve({ filter: /^#module$/ }, () => ({ path: path.join(STAGE, "index.js") }));
      onResolve({ filter: /^\.\/current\.js$/ }, () => source("current.js"));
      onResolve({ filter: /^\.\/index_bg\.wasm$/ }, () => (wasm ? outside(wasm) : source("embedded.js")));
      onResolve({ filter: /^#bytes$/ }, () => ({ path: WASM }));
      onResolve({ filter: /^\.\/page_files\.js$/ }, () => outside(page));
      onResolve({ filter: /^#platform$/ }, () => source(path.join("platform", platform)));
      onResolve({ filter: /^#transport$/ }, () => source(path.join("transport", transport)));
    },
  };
  await esbuild.build({
    absWorkingDir: root,
    entryPoints: Object.fromEntries(Object.entries(entries).map(([name, file]) => [name, path.join(SOURCE, file)])),
    outdir,
    bundle: true,
    format: "esm",
    target: "es2022",
    external: ["cloudflare:*", "node:*", "next/*", "ioredis"],
    loader: { ".wasm": "binary" },
    plugins: [links],
    logLevel: "warning",
    // wasm-bindgen's output has the same import key once for each function.
    logOverride: { "duplicate-object-key": "silent" },
    ...options,
  });
}

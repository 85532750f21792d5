/** The JavaScript of `npm/src` and what wasm-bindgen writes for the module, bundled for a host. */
import path from "node:path";
import { root } from "./command.mjs";

const SOURCE = path.join(root, "npm", "src");

/** What tools/bindgen writes: `index.js` and `index_bg.wasm`, before it is optimised. */
export const STAGE = path.join(root, "target", "stage");

/** The module as hosts get it. */
export const WASM = path.join(root, "build", "index_bg.wasm");

/**
 * @param {object} host
 * @param {Record<string, string>} host.entries names of outputs, and files of `npm/src`
 * @param {string} host.outdir
 * @param {string} [host.wasm] how the module is imported; without: its bytes are in the JavaScript
 * @param {string} host.page how the files of the page are imported
 * @param {string} [host.platform] a file of `npm/src/platform`
 * @param {string} host.transport a file of `npm/src/transport`: which Redis it reaches, beyond REST
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
    // The glue names the file that it calls once for each function.
    logOverride: { "duplicate-object-key": "silent" },
    ...options,
  });
}

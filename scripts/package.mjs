/**
 * `npm run package`: the npm package, from the module that the Worker runs, in `dist/package/`, and packed as
 * `dist/edge-limiter-VERSION.tgz`. `npm publish dist/edge-limiter-VERSION.tgz` publishes it. Not in `build/`, all of whose modules `wrangler`
 * uploads.
 */
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { PAGE_FILES, build } from "./build.mjs";
import { WASM, bundle } from "./bundle.mjs";
import { main, output, root, say } from "./command.mjs";

const DIST = path.join(root, "dist");
const FOLDER = path.join(DIST, "package");

/** The files of `npm/src` that applications import, and under which names. */
const ENTRIES = { index: "limiter.js", worker: "worker.js", node: "node.js", next: "next.js", hono: "hono.js" };

/** By export condition, how the module is loaded and which platform it runs on; the last one is for all others. */
const CONDITIONS = {
  workerd: { wasm: "../index_bg.wasm", platform: "workerd.js", transport: "sockets.js", entries: Object.keys(ENTRIES) },
  "edge-light": { wasm: "../index_bg.wasm?module", platform: "edge-light.js", transport: "none.js", entries: ["index", "next", "hono"] },
  default: { wasm: undefined, platform: "default.js", transport: "ioredis.js", entries: ["index", "node", "next", "hono"] },
};

/** Makes the package, and returns the tarball's path. */
export async function makePackage() {
  await build();
  rmSync(FOLDER, { recursive: true, force: true });
  const dist = path.join(FOLDER, "dist");
  mkdirSync(dist, { recursive: true });
  for (const [condition, { entries, ...host }] of Object.entries(CONDITIONS)) {
    const files = Object.fromEntries(entries.map((entry) => [entry, ENTRIES[entry]]));
    await bundle({ entries: files, outdir: path.join(dist, condition), page: `../${PAGE_FILES}`, ...host }, { splitting: true, chunkNames: "[name]-[hash]" });
  }
  copyFileSync(WASM, path.join(dist, path.basename(WASM)));
  copyFileSync(path.join(root, "build", PAGE_FILES), path.join(dist, PAGE_FILES));
  cpSync(path.join(root, "npm", "types"), path.join(FOLDER, "types"), { recursive: true });
  copyFileSync(path.join(root, "npm", "README.md"), path.join(FOLDER, "README.md"));
  copyFileSync(path.join(root, "LICENSE"), path.join(FOLDER, "LICENSE"));
  const manifest = { ...manifestOf(JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"))), ...repository() };
  writeFileSync(path.join(FOLDER, "package.json"), `${JSON.stringify(manifest, undefined, 2)}\n`);
  const [{ filename }] = JSON.parse(await output("npm", ["pack", "--json", "--pack-destination", DIST, FOLDER]));
  return path.join(DIST, filename);
}

function manifestOf({ name, version, description, license, engines }) {
  return {
    name, version, description, license, engines,
    keywords: ["rate-limit", "rate-limiter", "edge", "redis", "upstash", "cloudflare-workers", "vercel", "nextjs", "middleware", "wasm"],
    type: "module",
    exports: { ...Object.fromEntries(Object.keys(ENTRIES).map((entry) => [entry === "index" ? "." : `./${entry}`, exportsOf(entry)])), "./package.json": "./package.json" },
    files: ["dist", "types"],
    peerDependencies: { ioredis: ">=5", next: ">=14" },
    peerDependenciesMeta: { ioredis: { optional: true }, next: { optional: true } },
  };
}

/** Where it is built, on GitHub: npm refuses provenance for a package that does not name that repository. */
function repository({ GITHUB_SERVER_URL, GITHUB_REPOSITORY } = process.env) {
  if (!GITHUB_SERVER_URL || !GITHUB_REPOSITORY) return {};
  return { repository: { type: "git", url: `git+${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}.git` } };
}

function exportsOf(entry) {
  const has = Object.entries(CONDITIONS).filter(([, { entries }]) => entries.includes(entry));
  const paths = has.map(([condition]) => [condition, `./dist/${condition}/${entry}.js`]);
  const [[, only]] = paths;
  const isForOne = paths.length === 1;
  // The Worker is one, wherever a tool that knows no conditions looks for it.
  return { types: `./types/${entry}.d.ts`, ...(isForOne ? { default: only } : Object.fromEntries(paths)) };
}

await main(import.meta.url, async () => {
  const tarball = await makePackage();
  if (existsSync(tarball)) say(`${path.relative(root, tarball)}: ${(statSync(tarball).size / 1000).toFixed(0)} kB. In an application: npm install ${tarball}`);
});

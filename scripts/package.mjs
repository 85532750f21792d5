/**
 * `npm run package`: builds the npm package in `dist/package/`, with the same module that the Worker runs, and packs it as
 * `dist/edge-limiter-VERSION.tgz`. `npm publish dist/edge-limiter-VERSION.tgz` publishes it. It is not built in `build/`, because `wrangler`
 * uploads all modules there.
 */
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { PAGE_FILES, build } from "./build.mjs";
import { WASM, bundle } from "./bundle.mjs";
import { main, output, root, say } from "./command.mjs";

const DIST = path.join(root, "dist");
const FOLDER = path.join(DIST, "package");

/** The names under which applications import the package, and the file in `npm/src` behind each. */
const ENTRIES = { index: "limiter.js", worker: "worker.js", node: "node.js", next: "next.js", hono: "hono.js" };

/** For each export condition, how the module is loaded, and which platform and transport it uses. The last one is for all other runtimes. */
const CONDITIONS = {
  workerd: { wasm: "../index_bg.wasm", platform: "workerd.js", transport: "sockets.js", entries: Object.keys(ENTRIES) },
  "edge-light": { wasm: "../index_bg.wasm?module", platform: "edge-light.js", transport: "none.js", entries: ["index", "next", "hono"] },
  default: { wasm: undefined, platform: "default.js", transport: "ioredis.js", entries: ["index", "node", "next", "hono"] },
};

/** Builds the package, and returns the path of the tarball. */
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

/** The repository on GitHub, if this runs there. npm refuses provenance for a package that does not name the repository that built it. */
function repository({ GITHUB_SERVER_URL, GITHUB_REPOSITORY } = process.env) {
  if (!GITHUB_SERVER_URL || !GITHUB_REPOSITORY) return {};
  return { repository: { type: "git", url: `git+${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}.git` } };
}

function exportsOf(entry) {
  const conditions = Object.entries(CONDITIONS).filter(([, { entries }]) => entries.includes(entry));
  const paths = conditions.map(([condition]) => [condition, `./dist/${condition}/${entry}.js`]);
  const [[, only]] = paths;
  const isForOne = paths.length === 1;
  // An entry for one platform only, such as the Worker, must also be found by a tool that does not know the condition.
  return { types: `./types/${entry}.d.ts`, ...(isForOne ? { default: only } : Object.fromEntries(paths)) };
}

await main(import.meta.url, async () => {
  const tarball = await makePackage();
  if (existsSync(tarball)) say(`${path.relative(root, tarball)}: ${(statSync(tarball).size / 1000).toFixed(0)} kB. To install it in an application: npm install ${tarball}`);
});

/**
 * Creates projects outside of the repository. Each has the packed package installed from its tarball, as an application installs it, and
 * packages of tests/package next to it. Nothing here asks a registry; a request to one would fail.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, linkSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { environment } from "../../scripts/command.mjs";
import { within } from "../harness/within.mjs";
import { freePort } from "../upstash/free-port.mjs";

export const root = fileURLToPath(new URL("../..", import.meta.url));
const MODULES = path.join(root, "tests", "package", "node_modules");

export const { version } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));

/** The tarball that `npm run package` packs. */
export const TARBALL = path.join(root, "dist", `edge-limiter-${version}.tgz`);

/** Enough for a framework's first start on a busy machine. */
const START_TIMEOUT_MS = 60_000;
/** Enough for a framework's build on a busy machine. */
const RUN_TIMEOUT_MS = 240_000;

/** The registry does not exist, so npm finds only what is installed already. */
const NPM = ["install", "--offline", "--registry=http://127.0.0.1:9/", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"];

/** The environment of started programs, without variables that could configure a limiter. */
const cleanEnvironment = Object.fromEntries(Object.entries(environment).filter(([name]) => !/^(npm_|VERCEL|KV_|UPSTASH_|REDIS_|RATE_LIMIT_|ADMIN_|ORIGIN|CLIENT_IP|NODE_TEST)/.test(name)));

/**
 * Creates a project with these files and returns its folder. The folder is removed when the test ends.
 *
 * @param {import("node:test").TestContext} t
 * @param {Record<string, string>} files texts by path
 * @param {string[]} packages names of packages that tests/package has. They are added with their dependencies
 */
export async function project(t, files, packages = []) {
  // Compilers of frameworks compare real paths.
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), "edge-limiter-package-"));
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  const write = (name, text) => {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), text);
  };
  write("package.json", '{"name":"scratch","private":true,"type":"module"}\n');
  const npm = process.env.npm_execpath?.endsWith(".js") ? [process.execPath, process.env.npm_execpath] : ["npm"];
  await run(npm[0], [...npm.slice(1), ...NPM, `--cache=${path.join(folder, ".npm")}`, TARBALL], { cwd: folder });
  linkPackages(packages, path.join(folder, "node_modules"));
  for (const [name, text] of Object.entries(files)) write(name, text);
  return folder;
}

/** Links packages of tests/package and their dependencies into another folder. Hard links, since Turbopack follows no symbolic link out of a project. */
function linkPackages(packages, folder) {
  const locked = JSON.parse(readFileSync(path.join(MODULES, ".package-lock.json"), "utf8")).packages;
  const linked = new Set();
  const wanted = [...packages];
  // The loop appends dependencies to the list.
  for (const name of wanted) {
    const place = `node_modules/${name}`;
    // Optional packages and those for another platform are absent.
    if (linked.has(name) || !(place in locked)) continue;
    linked.add(name);
    linkTree(path.join(MODULES, name), path.join(folder, name));
    const parts = Object.entries(locked).filter(([part]) => part === place || part.startsWith(`${place}/node_modules/`));
    wanted.push(...parts.flatMap(([, { dependencies, optionalDependencies, peerDependencies }]) => Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })));
  }
  const missing = packages.filter((name) => !linked.has(name));
  if (missing.length > 0) throw new Error(`tests/package lacks ${missing.join(", ")}: add them to tests/package/package.json`);
}

function linkTree(from, to) {
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [path.join(from, entry.name), path.join(to, entry.name)];
    if (entry.isDirectory()) linkTree(source, target);
    else linkFile(source, target);
  }
}

function linkFile(from, to) {
  try {
    linkSync(from, to);
  } catch (error) {
    // Hard links do not work across file systems.
    if (error.code !== "EXDEV") throw error;
    copyFileSync(from, to);
  }
}

/** Returns the path of a file in a package of tests/package. */
export const program = (...parts) => path.join(MODULES, ...parts);

/** Deno's and Bun's executables in their platform packages. npm does not run the install scripts that would move them. */
export const deno = () => platformProgram("@deno", "deno");
export const bun = () => platformProgram("@oven", path.join("bin", "bun"));

function platformProgram(scope, name) {
  const [folder] = readdirSync(program(scope));
  return program(scope, folder, name);
}

/** The repository's wrangler. */
export const wrangler = path.join(root, "node_modules", "wrangler", "bin", "wrangler.js");

/** Runs a program to its end and returns what it printed. Rejects if it fails or does not end in time. With `fails` it has to fail. */
export async function run(command, args, { cwd, env = {}, fails = false } = {}) {
  const child = spawn(command, args, { cwd, env: { ...cleanEnvironment, ...env }, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const printed = printedBy(child);
  try {
    const [code] = await within(once(child, "close"), `the end of ${path.basename(command)} ${args.join(" ")}`, RUN_TIMEOUT_MS);
    if ((code !== 0) !== fails) throw new Error(`exit code ${code}, expected ${fails ? "a failure" : "0"}`);
  } catch (error) {
    throw new Error(`${path.basename(command)} ${args.join(" ")}: ${error.message}\n${printed()}`, { cause: error });
  } finally {
    end(child);
  }
  return printed();
}

/**
 * Starts a server on a free port and waits until it accepts connections. It is stopped when the test ends.
 *
 * @param {import("node:test").TestContext} t
 * @param {string} command
 * @param {(port: number) => string[]} args
 * @param {{cwd: string, env?: Record<string, string>}} options `PORT` is added to the environment
 * @returns {Promise<{url: string, printed: () => string}>}
 */
export async function serve(t, command, args, { cwd, env = {} }) {
  const port = await freePort();
  const child = spawn(command, args(port), { cwd, env: { ...cleanEnvironment, PORT: String(port), ...env }, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const printed = printedBy(child);
  const closed = once(child, "close");
  t.after(async () => {
    end(child);
    await closed;
  });
  const listens = async () => {
    while (!(await acceptsConnections(port))) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error("the server ended before it listened");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  try {
    await within(listens(), "the server to listen", START_TIMEOUT_MS);
  } catch (error) {
    throw new Error(`${path.basename(command)} ${args(port).join(" ")}: ${error.message}\n${printed()}`, { cause: error });
  }
  return { url: `http://127.0.0.1:${port}`, printed };
}

function printedBy(child) {
  let printed = "";
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", (text) => (printed += text));
  return () => printed;
}

/** Ends a program and all processes that it has started. They are one process group. */
function end(child) {
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

async function acceptsConnections(port) {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/**
 * Projects outside of the repository, each with the packed package installed from its tarball as an application installs it,
 * and with packages of tests/package beside it. Nothing here asks a registry: it would fail.
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

/** What `npm run package` has packed. */
export const TARBALL = path.join(root, "dist", `edge-limiter-${version}.tgz`);

/** A first start of a framework, on a busy machine. */
const STARTING_MS = 60_000;
/** A build by one. */
const ENDING_MS = 240_000;

/** No registry: what is not there already is not found. */
const NPM = ["install", "--offline", "--registry=http://127.0.0.1:9/", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"];

/** What programs are started with: nothing of this process's own configuration, which could be a limiter's. */
const surroundings = Object.fromEntries(Object.entries(environment).filter(([name]) => !/^(npm_|VERCEL|KV_|UPSTASH_|REDIS_|RATE_LIMIT_|ADMIN_|ORIGIN|CLIENT_IP|NODE_TEST)/.test(name)));

/**
 * A project with these files, removed when the test ends; its folder.
 *
 * @param {import("node:test").TestContext} t
 * @param {Record<string, string>} files by their paths in it
 * @param {string[]} packages names of packages that tests/package has: they come with what they depend on
 */
export async function project(t, files, packages = []) {
  // The compilers of frameworks compare real paths.
  const folder = mkdtempSync(path.join(realpathSync(tmpdir()), "edge-limiter-package-"));
  t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }));
  const write = (name, text) => {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), text);
  };
  write("package.json", '{"name":"scratch","private":true,"type":"module"}\n');
  const npm = process.env.npm_execpath?.endsWith(".js") ? [process.execPath, process.env.npm_execpath] : ["npm"];
  await run(npm[0], [...npm.slice(1), ...NPM, `--cache=${path.join(folder, ".npm")}`, TARBALL], { cwd: folder });
  bring(packages, path.join(folder, "node_modules"));
  for (const [name, text] of Object.entries(files)) write(name, text);
  return folder;
}

/** Links packages of tests/package, and all that they depend on, into another folder: as files, since Turbopack follows no link out of a project. */
function bring(packages, folder) {
  const locked = JSON.parse(readFileSync(path.join(MODULES, ".package-lock.json"), "utf8")).packages;
  const brought = new Set();
  const wanted = [...packages];
  // It grows.
  for (const name of wanted) {
    const place = `node_modules/${name}`;
    // Absent: what is for another platform, or optional.
    if (brought.has(name) || !(place in locked)) continue;
    brought.add(name);
    linkTree(path.join(MODULES, name), path.join(folder, name));
    const parts = Object.entries(locked).filter(([part]) => part === place || part.startsWith(`${place}/node_modules/`));
    wanted.push(...parts.flatMap(([, { dependencies, optionalDependencies, peerDependencies }]) => Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })));
  }
  const missing = packages.filter((name) => !brought.has(name));
  if (missing.length > 0) throw new Error(`tests/package has no ${missing.join(", ")}`);
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
    // Another file system.
    if (error.code !== "EXDEV") throw error;
    copyFileSync(from, to);
  }
}

/** A program of a package of tests/package, by its path there. */
export const program = (...parts) => path.join(MODULES, ...parts);

/** Deno's and Bun's own programs: their packages' scripts, which would put them elsewhere, are not run. */
export const deno = () => platformProgram("@deno", "deno");
export const bun = () => platformProgram("@oven", path.join("bin", "bun"));

function platformProgram(scope, name) {
  const [folder] = readdirSync(program(scope));
  return program(scope, folder, name);
}

/** wrangler of the repository. */
export const wrangler = path.join(root, "node_modules", "wrangler", "bin", "wrangler.js");

/** Runs a program to its end; what it printed. One that fails, or fails to end, fails the test. */
export async function run(command, args, { cwd, env = {}, fails = false } = {}) {
  const child = spawn(command, args, { cwd, env: { ...surroundings, ...env }, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const printed = printedBy(child);
  try {
    const [code] = await within(once(child, "close"), `the end of ${path.basename(command)} ${args.join(" ")}`, ENDING_MS);
    if ((code !== 0) !== fails) throw new Error(`exit code ${code}`);
  } catch (error) {
    throw new Error(`${path.basename(command)} ${args.join(" ")}: ${error.message}\n${printed()}`, { cause: error });
  } finally {
    end(child);
  }
  return printed();
}

/**
 * Starts a server on a free port and waits until it takes connections. It ends with the test.
 *
 * @param {import("node:test").TestContext} t
 * @param {string} command
 * @param {(port: number) => string[]} args
 * @param {{cwd: string, env?: Record<string, string>}} options `PORT` is in its environment too
 * @returns {Promise<{url: string, printed: () => string}>}
 */
export async function serve(t, command, args, { cwd, env = {} }) {
  const port = await freePort();
  const child = spawn(command, args(port), { cwd, env: { ...surroundings, PORT: String(port), ...env }, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const printed = printedBy(child);
  const closed = once(child, "close");
  t.after(async () => {
    end(child);
    await closed;
  });
  const listens = async () => {
    while (!(await takesConnections(port))) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error("it has ended");
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  try {
    await within(listens(), "a connection", STARTING_MS);
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

/** Ends a program with all that it has started: they are a process group of their own. */
function end(child) {
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

async function takesConnections(port) {
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

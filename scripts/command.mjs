/**
 * Runs other programs. Every script uses this file, so that each program gets the same environment, and every failure is reported
 * in the same way.
 */
import { spawn, spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root, so that scripts work from any current directory. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

/** Where rustup installs its programs. A shell that was opened before rustup was installed does not have this folder on its PATH. */
const cargoBin = path.join(process.env.CARGO_HOME ?? path.join(process.env.HOME ?? "/", ".cargo"), "bin");

/**
 * The environment of every program. It turns off telemetry and looking for newer versions.
 * `CLOUDFLARE_CF_FETCH_ENABLED=false` keeps `wrangler dev` from asking Cloudflare where this machine is.
 */
export const environment = {
  ...process.env,
  PATH: [process.env.PATH, cargoBin].filter(Boolean).join(path.delimiter),
  WRANGLER_SEND_METRICS: "false",
  WRANGLER_HIDE_BANNER: "true",
  CLOUDFLARE_CF_FETCH_ENABLED: process.env.CLOUDFLARE_CF_FETCH_ENABLED ?? "false",
  PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD: "1",
  ARTILLERY_DISABLE_TELEMETRY: "true",
  NEXT_TELEMETRY_DISABLED: "1",
  DENO_NO_UPDATE_CHECK: "1",
  DO_NOT_TRACK: "1",
};

/** A failure that is reported by its message only, without a stack. The script ends with `exitCode`. */
export class Failure extends Error {
  constructor(message, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** Prints a line of progress, marked so that it differs from what the programs print. */
export function say(line) {
  console.log(`> ${line}`);
}

/** Starts a program in the repository's root. Its output goes to this process's output. */
export function start(program, args, options = {}) {
  const { env, ...rest } = options;
  return spawn(program, args, { cwd: root, stdio: "inherit", ...rest, env: { ...environment, ...env } });
}

/** The exit code of a child once it has ended. As in a shell, it is 128 + the signal's number if a signal ended the child. */
export function ended(child) {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(code ?? 128 + ({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }[signal] ?? 9)));
  });
}

/** Runs a program to its end and throws a `Failure` unless it succeeds. */
export async function run(program, args, options = {}) {
  let code;
  try {
    code = await ended(start(program, args, options));
  } catch (error) {
    throw new Failure(`cannot run ${program}: ${error.message}`);
  }
  if (code !== 0) throw new Failure(`failed (exit code ${code}): ${path.basename(program)} ${args.join(" ")}`, code);
}

/** What a program prints, or `undefined` if it is missing or fails. */
export function output(program, args) {
  const result = spawnSync(program, args, { cwd: root, env: environment, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/**
 * Runs `body` if node was started with `module`, and not if another script imports it. A `Failure` is printed as one line and
 * becomes the exit code.
 */
export async function main(module, body) {
  if (process.argv[1] === undefined || path.resolve(process.argv[1]) !== fileURLToPath(module)) return;
  try {
    await body(process.argv.slice(2));
  } catch (error) {
    console.error(error instanceof Failure ? `\nerror: ${error.message}` : error);
    process.exitCode = error.exitCode ?? 1;
  }
}

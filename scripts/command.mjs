/**
 * Running other programs. Every script goes through here, so that each program gets
 * the same environment and a failure is reported the same way.
 */
import { spawn, spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** The repository's root: scripts work from any current directory. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

/** The usual place of rustup's programs, which a shell opened before rustup was installed does not search. */
const cargoBin = path.join(process.env.CARGO_HOME ?? path.join(process.env.HOME ?? "/", ".cargo"), "bin");

/**
 * What every program is started with: nothing phones home, be it with measurements or to look for a newer version.
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

/** A failure whose message is all that the reader needs; `exitCode` is what the script ends with. */
export class Failure extends Error {
  constructor(message, exitCode = 1) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** A line of progress, apart from what the programs themselves print. */
export function say(line) {
  console.log(`> ${line}`);
}

/** Starts a program in the repository's root, its output passed on. */
export function start(program, args, options = {}) {
  const { env, ...rest } = options;
  return spawn(program, args, { cwd: root, stdio: "inherit", ...rest, env: { ...environment, ...env } });
}

/** How a child ended, as a shell would say it: 128 + the number of the signal when one ended it. */
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

/** What a program prints, or `undefined` when it is missing or fails. */
export function output(program, args) {
  const result = spawnSync(program, args, { cwd: root, env: environment, encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/**
 * Runs `body` when `module` is the script that node was started with, and not when another script imports it.
 * Its failures become one line and an exit code.
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

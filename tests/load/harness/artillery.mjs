/** Runs Artillery as a child process and reads its report. */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, ended, environment } from "../../../scripts/command.mjs";
import { onPath } from "../../upstash/on-path.mjs";
import { Tally } from "./tally.mjs";

/** Additional time for Artillery's start, and for requests in flight at the end of its phases. */
const ALLOWANCE_MS = 90_000;

/**
 * Runs a script to its end.
 *
 * @param {object} options
 * @param {string} options.script the path of the YAML file
 * @param {string} options.target
 * @param {{duration: number, arrivalCount: number}} options.phase replaces the script's phase
 * @param {object} [options.variables] variables for its templates and hooks
 * @param {number} options.maxSeconds the most time that its phases may take
 * @returns {Promise<Tally>}
 */
export async function artillery({ script, target, phase, variables = {}, maxSeconds }) {
  const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-artillery-"));
  const output = path.join(folder, "report.json");
  const tidy = () => rmSync(folder, { recursive: true, force: true });
  process.on("exit", tidy);
  try {
    const printed = await run([
      "run", script, "--quiet", "--target", loopback(target), "--output", output, "--variables", JSON.stringify(variables),
      "--overrides", JSON.stringify({ config: { phases: [phase] } }),
    ], maxSeconds * 1000 + ALLOWANCE_MS);
    if (!existsSync(output)) throw new Failure(`Artillery wrote no report for ${path.basename(script)}:\n${printed}`);
    return new Tally(JSON.parse(readFileSync(output, "utf8")).aggregate);
  } finally {
    tidy();
    process.off("exit", tidy);
  }
}

/** Returns the URL if it is on this machine, and throws otherwise. Load on any other host would be an attack. */
export function loopback(url) {
  if (new URL(url).hostname !== "127.0.0.1") throw new Failure(`load tests may only target 127.0.0.1, not ${url}`);
  return url;
}

/** Runs Artillery and returns what it printed. Kills it if it takes too long. */
async function run(args, ms) {
  const command = [process.execPath, createRequire(import.meta.url).resolve("artillery/bin/run"), ...args];
  // On Linux it ends with this process, even if this process is killed.
  if (onPath("setpriv")) command.unshift("setpriv", "--pdeathsig", "KILL", "--");
  const child = spawn(command[0], command.slice(1), { env: withoutProxies(), stdio: ["ignore", "pipe", "pipe"] });
  const printed = [];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => printed.push(chunk));
  let late = false;
  const limit = setTimeout(() => {
    late = true;
    child.kill("SIGKILL");
  }, ms);
  const code = await ended(child);
  clearTimeout(limit);
  const text = Buffer.concat(printed).toString();
  if (late) throw new Failure(`Artillery did not end within ${ms / 1000} s and was killed:\n${text}`);
  if (code !== 0) throw new Failure(`Artillery ended with exit code ${code}:\n${text}`);
  return text;
}

function withoutProxies() {
  const kept = Object.entries(environment).filter(([name]) => !/^(https?|all|no)_proxy$/i.test(name));
  return { ...Object.fromEntries(kept), NODE_OPTIONS: `--import=${new URL("loopback.mjs", import.meta.url).href}` };
}

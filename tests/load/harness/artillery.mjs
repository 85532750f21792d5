/** Artillery as a process of its own, and what it reports. */

import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { Failure, ended, environment } from "../../../scripts/command.mjs";
import { onPath } from "../../upstash/on-path.mjs";
import { Tally } from "./tally.mjs";

/** For its start, and for what is still in flight at the end of its phases. */
const TO_SPARE_MS = 90_000;

/**
 * Runs a script to its end.
 *
 * @param {object} options
 * @param {string} options.script the YAML
 * @param {string} options.target
 * @param {{duration: number, arrivalCount: number}} options.phase instead of the script's
 * @param {object} [options.variables] for its templates and hooks
 * @param {number} options.atMostSeconds that its phases may take
 * @returns {Promise<Tally>}
 */
export async function artillery({ script, target, phase, variables = {}, atMostSeconds }) {
  const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-artillery-"));
  const output = path.join(folder, "report.json");
  const tidy = () => rmSync(folder, { recursive: true, force: true });
  process.on("exit", tidy);
  try {
    const printed = await run([
      "run", script, "--quiet", "--target", loopback(target), "--output", output, "--variables", JSON.stringify(variables),
      "--overrides", JSON.stringify({ config: { phases: [phase] } }),
    ], atMostSeconds * 1000 + TO_SPARE_MS);
    if (!existsSync(output)) throw new Failure(`Artillery reported nothing of ${path.basename(script)}:\n${printed}`);
    return new Tally(JSON.parse(readFileSync(output, "utf8")).aggregate);
  } finally {
    tidy();
    process.off("exit", tidy);
  }
}

/** The same URL, if it is this machine's own. Load that goes anywhere else is an attack. */
export function loopback(url) {
  if (new URL(url).hostname !== "127.0.0.1") throw new Failure(`load goes to 127.0.0.1 alone, not to ${url}`);
  return url;
}

/** What it printed, once it has ended: by itself, or by its process id when it takes too long. */
async function run(args, ms) {
  const command = [process.execPath, createRequire(import.meta.url).resolve("artillery/bin/run"), ...args];
  // It ends with this process, be that killed (Linux).
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
  if (late) throw new Failure(`Artillery did not end within ${ms / 1000} s and was ended:\n${text}`);
  if (code !== 0) throw new Failure(`Artillery ended with exit code ${code}:\n${text}`);
  return text;
}

function withoutProxies() {
  const kept = Object.entries(environment).filter(([name]) => !/^(https?|all|no)_proxy$/i.test(name));
  return { ...Object.fromEntries(kept), NODE_OPTIONS: `--import=${new URL("loopback.mjs", import.meta.url).href}` };
}

/** Reads the files of ops/, and runs the programs that they are for. */

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { load } from "js-yaml";
import { root } from "../../scripts/command.mjs";
import { within } from "../harness/within.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { onPath } from "../upstash/on-path.mjs";

export const OPS = path.join(root, "ops");

export const read = (...parts) => readFileSync(path.join(root, ...parts), "utf8");
export const yaml = (...parts) => load(read(...parts));

/** The paths of the files in a folder of ops/, from the root. */
export function files(...parts) {
  const folder = path.join("ops", ...parts);
  return readdirSync(path.join(root, folder)).filter((name) => !name.startsWith(".")).sort().map((name) => path.join(folder, name));
}

/** All recording rules and alerts, each with the name of its file. */
export function rules() {
  return files("prometheus", "rules").flatMap((file) => yaml(file).groups.flatMap((group) => group.rules.map((rule) => ({ file, ...rule }))));
}

export const recorded = () => new Set(rules().flatMap(({ record }) => record ?? []));
export const alerts = () => rules().filter(({ alert }) => alert);

/** Every query of every dashboard, with its variables replaced: `[{file, panel, expr}]`. */
export function queries({ range = "5m" } = {}) {
  return files("grafana", "dashboards").flatMap((file) => {
    const board = JSON.parse(read(file));
    const withVariables = (text) => text.replaceAll("$__rate_interval", range).replaceAll(/"\$(environment|instance)"/g, '".*"');
    const variables = board.templating.list.filter(({ type }) => type === "query").map(({ name, definition }) => {
      const [, expr] = /^label_values\((.*), \w+\)$/.exec(definition);
      return { file, panel: `variable ${name}`, expr: withVariables(expr) };
    });
    return [...variables, ...board.panels.flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ file, panel: title, expr: withVariables(expr) })))];
  });
}

/** Runs a program to its end, and returns what it printed on stdout. If the program fails, the error has its output. */
export function run(program, args, options = {}) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: "utf8", timeout: 120_000, ...options });
  assert.equal(status, 0, `${program} ${args.join(" ")} failed: ${error ?? ""}\n${stdout}${stderr}`);
  return stdout;
}

/**
 * Starts a program that ends with this process, and waits until it prints a matching line on stderr.
 *
 * @returns {Promise<() => Promise<void>>} a function that ends the program
 */
export async function start(command, ready) {
  // setpriv ends the program even if this process is killed.
  const [program, ...args] = onPath("setpriv") ? ["setpriv", "--pdeathsig", "KILL", "--", ...command] : command;
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"] });
  const exited = once(child, "exit");
  const end = async () => {
    child.kill("SIGKILL");
    await exited;
  };
  const lines = [];
  const isReady = new Promise((resolve, reject) => {
    createInterface({ input: child.stderr }).on("line", (line) => {
      lines.push(line);
      if (ready.test(line)) resolve();
    });
    exited.then(() => reject(new Error(`${command[0]} ended before it was ready:\n${lines.join("\n")}`)));
  });
  isReady.catch(() => {});
  try {
    await within(isReady, `${command[0]} to be ready`);
  } catch (error) {
    await end();
    throw error;
  }
  return end;
}

/** A folder that is removed at the test's end. */
export function temporary(t) {
  const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-ops-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A copy of ops/prometheus as in the container, with a token. It is removed at the test's end. */
export function prometheusFolder(t, token = "a-token-of-this-test") {
  const folder = temporary(t);
  cpSync(path.join(OPS, "prometheus"), folder, { recursive: true });
  mkdirSync(path.join(folder, "secrets"));
  writeFileSync(path.join(folder, "secrets", "limiter_token"), token);
  return folder;
}

/** Starts Prometheus with the `prometheus.yml` of a folder, and returns its URL. It ends with the test `t`. */
export async function startPrometheus(t, folder) {
  const address = `127.0.0.1:${await freePort()}`;
  const later = [];
  const data = temporary({ after: (remove) => later.push(remove) });
  const command = ["prometheus", `--config.file=${folder}/prometheus.yml`, `--storage.tsdb.path=${data}`, `--web.listen-address=${address}`];
  const end = await start(command, /Server is ready/);
  // Prometheus writes to its folder until it has ended.
  t.after(async () => {
    await end();
    for (const remove of later) remove();
  });
  return `http://${address}`;
}

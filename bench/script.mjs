/** Runs the decision script on its own Redis, and measures what a decision costs that Redis. */

import { readFileSync } from "node:fs";
import path from "node:path";
import { root } from "../scripts/command.mjs";
import { Connection } from "../tests/upstash/connection.mjs";
import { startRedis } from "../tests/upstash/redis-server.mjs";
import { withoutFlag } from "../tests/upstash/scripts.mjs";

/** The prefix in wrangler.toml. */
const PREFIX = "vibewell:ratelimit:";
/** Long enough that nothing expires during a measurement. */
const WINDOW_MS = 3600 * 1000;
/** A window has sixty sub-windows. */
export const SUB_WINDOW_MS = WINDOW_MS / 60;
/** So high that nobody is denied. */
const LIMIT = 1_000_000_000;
/** How many commands are sent at once. */
const COMMANDS_PER_BATCH = 250;
/** How many keys are written at once. */
const KEYS_PER_BATCH = 10_000;

/** The time that is passed to the script, in ms since the epoch. It is the start of a sub-window. */
export const NOW = Math.floor(Date.now() / WINDOW_MS) * WINDOW_MS;

const address = (caller) => [100, caller >> 16, caller >> 8, caller].map((part) => part & 255).join(".");
const key = (caller, policy) => `${PREFIX}policy${policy}:${address(caller)}`;

export async function startScript() {
  const redis = await startRedis();
  try {
    const connection = await Connection.open(redis);
    const script = new Script(redis, connection);
    script.sha = String(await script.command("SCRIPT", "LOAD", withoutFlag(readFileSync(path.join(root, "src/store/decide.lua"), "utf8"))));
    return script;
  } catch (error) {
    await redis.stop();
    throw error;
  }
}

class Script {
  constructor(redis, connection) {
    this.redis = redis;
    this.connection = connection;
  }

  async stop() {
    this.connection.close();
    await this.redis.stop();
  }

  async command(...args) {
    const [reply] = await this.all([args]);
    return reply;
  }

  async all(commands) {
    const replies = await this.connection.send(commands);
    for (const reply of replies) if (reply instanceof Error) throw reply;
    return replies;
  }

  /** The command for a decision of one unit over a number of policies, as the Worker sends it. */
  decision(caller, { policies = 1, now = NOW } = {}) {
    const numbers = Array.from({ length: policies }, (_, policy) => policy);
    const keys = [`${PREFIX}blocked_ranges:version`, `${PREFIX}blocked:${address(caller)}`, ...numbers.map((policy) => key(caller, policy))];
    const quota = ["s", LIMIT, WINDOW_MS, LIMIT, 0, 1, 0, ""];
    return ["EVALSHA", this.sha, keys.length, ...keys, now, 1, 1, ...numbers.flatMap(() => quota)].map(String);
  }

  /** The text of a caller's state. */
  async state(caller) {
    return String(await this.command("GET", key(caller, 0)));
  }

  /** Writes a state for each caller from number `from` up to `to`, as the script itself writes it. */
  async fill(from, to) {
    if (from >= to) return;
    await this.command(...this.decision(from));
    const text = await this.state(from);
    for (let start = from; start < to; start += KEYS_PER_BATCH) {
      const count = Math.min(KEYS_PER_BATCH, to - start);
      await this.all(Array.from({ length: count }, (_, i) => ["SET", key(start + i, 0), text, "PX", String(2 * WINDOW_MS)]));
    }
  }

  /** The bytes that Redis uses for its data. */
  async bytes() {
    return this.#info("memory", "used_memory");
  }

  async callers() {
    return Number(await this.command("DBSIZE"));
  }

  /**
   * Makes the decisions and returns the cost of one: `cpu`, the process's CPU in µs, and `commands`, as Upstash bills them. (The times in
   * `commandstats` are wall-clock times, which include the time that other programs take.) The CPU is the smallest of several stretches,
   * because other programs can only make a stretch slower.
   */
  async measure(decisions, stretches) {
    const stretch = Math.ceil(decisions.length / stretches);
    const best = { cpu: Infinity };
    for (let start = 0; start < decisions.length; start += stretch) {
      const some = decisions.slice(start, start + stretch);
      await this.command("CONFIG", "RESETSTAT");
      const before = await this.#cpu();
      for (let sent = 0; sent < some.length; sent += COMMANDS_PER_BATCH) await this.all(some.slice(sent, sent + COMMANDS_PER_BATCH));
      best.cpu = Math.min(best.cpu, ((await this.#cpu()) - before) / some.length);
      const stats = await this.#commands();
      if (stats.get("evalsha") !== some.length) throw new Error(`Redis counted ${stats.get("evalsha")} decisions, but ${some.length} were made`);
      const calls = ["evalsha", "mget", "set"].map((name) => stats.get(name) ?? 0);
      best.commands = calls.reduce((sum, count) => sum + count) / some.length;
    }
    return best;
  }

  async #cpu() {
    return 1e6 * ((await this.#info("cpu", "used_cpu_user")) + (await this.#info("cpu", "used_cpu_sys")));
  }

  async #info(section, field) {
    const info = String(await this.command("INFO", section));
    return Number(info.match(new RegExp(`^${field}:([\\d.]+)`, "m"))[1]);
  }

  async #commands() {
    const info = String(await this.command("INFO", "commandstats"));
    const lines = info.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm);
    return new Map([...lines].map(([, name, calls]) => [name, Number(calls)]));
  }
}

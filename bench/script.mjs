/** The decision script on a Redis of its own: what a decision costs that Redis. */

import { readFileSync } from "node:fs";
import path from "node:path";
import { root } from "../scripts/command.mjs";
import { Connection } from "../tests/upstash/connection.mjs";
import { startRedis } from "../tests/upstash/redis-server.mjs";
import { withoutFlag } from "../tests/upstash/scripts.mjs";

/** As wrangler.toml sets it. */
const PREFIX = "vibewell:ratelimit:";
/** Long enough that nothing expires while it is measured. */
const WINDOW = 3600 * 1000;
/** Of which there are sixty. */
export const SUB_WINDOW = WINDOW / 60;
/** Denies nobody here. */
const LIMIT = 1_000_000_000;
/** Commands that are sent at once. */
const AT_ONCE = 250;
/** Keys that are written at once. */
const WRITTEN_AT_ONCE = 10_000;

/** Virtual: the script takes its time from its caller. At the start of a sub-window. */
export const NOW = Math.floor(Date.now() / WINDOW) * WINDOW;

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

  /** One decision of one unit, over so many policies, as the Worker sends it. */
  decision(caller, { policies = 1, now = NOW } = {}) {
    const numbers = Array.from({ length: policies }, (_, policy) => policy);
    const keys = [`${PREFIX}blocked_ranges:version`, `${PREFIX}blocked:${address(caller)}`, ...numbers.map((policy) => key(caller, policy))];
    const quota = ["s", LIMIT, WINDOW, LIMIT, 0, 1, 0, ""];
    return ["EVALSHA", this.sha, keys.length, ...keys, now, 1, 1, ...numbers.flatMap(() => quota)].map(String);
  }

  /** The text of a caller's state. */
  async state(caller) {
    return String(await this.command("GET", key(caller, 0)));
  }

  /** Holds callers from one number up to another, each with a state as the script itself writes it. */
  async fill(from, to) {
    if (from >= to) return;
    await this.command(...this.decision(from));
    const text = await this.state(from);
    for (let start = from; start < to; start += WRITTEN_AT_ONCE) {
      const count = Math.min(WRITTEN_AT_ONCE, to - start);
      await this.all(Array.from({ length: count }, (_, i) => ["SET", key(start + i, 0), text, "PX", String(2 * WINDOW)]));
    }
  }

  /** Bytes that Redis's data take. */
  async bytes() {
    return this.#info("memory", "used_memory");
  }

  async callers() {
    return Number(await this.command("DBSIZE"));
  }

  /**
   * Makes the decisions and says what one costs: `cpu`, microseconds of the process (`commandstats` has them too, but of the
   * clock on the wall, with the time that other programs take); `commands`, as Upstash bills them. Of several stretches the least:
   * other programs only ever add.
   */
  async measure(decisions, stretches) {
    const stretch = Math.ceil(decisions.length / stretches);
    const best = { cpu: Infinity };
    for (let start = 0; start < decisions.length; start += stretch) {
      const some = decisions.slice(start, start + stretch);
      await this.command("CONFIG", "RESETSTAT");
      const before = await this.#cpu();
      for (let sent = 0; sent < some.length; sent += AT_ONCE) await this.all(some.slice(sent, sent + AT_ONCE));
      best.cpu = Math.min(best.cpu, ((await this.#cpu()) - before) / some.length);
      const stats = await this.#commands();
      if (stats.get("evalsha") !== some.length) throw new Error("Redis counts other decisions than were made");
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

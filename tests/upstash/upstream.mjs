/**
 * The stand-in's way to Redis: one connection for the commands, one on which `MONITOR` tells what scripts ran.
 *
 * # How billed commands are counted
 *
 * Upstash bills the commands that are sent and the commands that scripts run. The first the stand-in knows: every
 * command it hands to Redis counts once, also one that fails, also an `EVALSHA` that answers `NOSCRIPT` (Upstash does
 * not say that failures are free; taking them as billed errs on the dear side). The `MULTI` and `EXEC` that carry a
 * transaction are the stand-in's own and do not count.
 *
 * The second only Redis knows. `INFO commandstats` counts them, but for the whole server, a test's own client included.
 * `MONITOR` reports each command as it runs, in order, with the address of the connection, or `lua` if a script ran it;
 * Redis runs one thing at a time, so a `lua` line belongs to the nearest line before it that has an address. This
 * attribution is exact whatever else uses the server.
 */

import { randomUUID } from "node:crypto";
import { Connection, RedisGone } from "./connection.mjs";
import { ReplyError } from "./resp.mjs";

/** `1764000000.123456 [0 127.0.0.1:6379] "echo" "x"`, `1764000000.123456 [0 lua] "GET" "k"`. */
const MONITORED = /^\d+\.\d+ \[\d+ (\S+)\] "((?:[^"\\]|\\.)*)"(?: "([^"\\]*)")?/;

export class Upstream {
  #redis;
  #user;
  #link;
  #connecting;
  #sent = 0;
  #inScripts = 0;
  #ran = new Set();
  #markers = new Map();
  #stopped = false;

  /**
   * @param {{host: string, port: number}} redis
   * @param {{name: string, password: string}} [user] whose the caller's commands are; default: Redis's default user
   */
  constructor(redis, user) {
    this.#redis = redis;
    this.#user = user;
  }

  /** Sends one command of the caller's; resolves with the reply. Rejects with `RedisGone`. */
  async command(args) {
    const link = await this.#linked();
    this.#sent += 1;
    const [reply] = await link.work.send([args]);
    return reply;
  }

  /** Runs the caller's commands as one transaction; resolves with the reply to `EXEC`. Rejects with `RedisGone`. */
  async transaction(commands) {
    const link = await this.#linked();
    this.#sent += commands.length;
    const replies = await link.work.send([["MULTI"], ...commands, ["EXEC"]]);
    return replies.at(-1);
  }

  /** Removes all data and all scripts; counting starts again at 0. */
  async flush() {
    const link = await this.#linked();
    await link.own.send([["FLUSHALL"], ["SCRIPT", "FLUSH"]]);
    await this.#caughtUp();
    this.#sent = 0;
    this.#inScripts = 0;
    this.#ran.clear();
  }

  /** Commands that Upstash would have billed so far, those of every reply already given included. Waits while Redis is paused. */
  async billed() {
    await this.#caughtUp();
    return this.#sent + this.#inScripts;
  }

  /** The names of the commands that ran so far for the caller, scripts' own included. */
  async ran() {
    await this.#caughtUp();
    return new Set(this.#ran);
  }

  close() {
    this.#stopped = true;
    this.#link?.close();
  }

  /** Waits until `MONITOR` has told everything that ran before now, by sending a command and waiting to see it there. */
  async #caughtUp() {
    const link = this.#link;
    if (!link?.open) return; // everything it told has been read before its "close"
    const marker = randomUUID();
    const seen = new Promise((resolve) => this.#markers.set(marker, resolve));
    try {
      await link.own.send([["ECHO", marker]]);
      await Promise.race([seen, link.closed]);
    } catch (error) {
      if (!(error instanceof RedisGone)) throw error;
    } finally {
      this.#markers.delete(marker);
    }
  }

  /** The link, made anew if there is none: when Redis is back, the next command finds it, with no timer. */
  async #linked() {
    if (this.#stopped) throw new RedisGone("the stand-in was stopped");
    if (this.#link?.open) return this.#link;
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #connect() {
    let ours = false;
    let work, own;
    const monitor = await Connection.open(this.#redis, (line) => {
      const [, source, name, argument] = MONITORED.exec(line.text) ?? [];
      if (source === "lua") {
        if (ours) {
          this.#inScripts += 1;
          this.#ran.add(name.toUpperCase());
        }
        return;
      }
      ours = source === work?.address;
      if (source === own?.address && name.toUpperCase() === "ECHO") this.#markers.get(argument)?.();
      else if (ours && name.toUpperCase() !== "AUTH") this.#ran.add(name.toUpperCase());
    });
    try {
      await monitor.send([["MONITOR"]]); // before any command, so that none goes unseen
      const opened = await Connection.open(this.#redis);
      if (this.#user) {
        const [reply] = await opened.send([["AUTH", this.#user.name, this.#user.password]]);
        if (reply instanceof ReplyError) throw new RedisGone(reply.message);
      }
      work = opened;
      // What is the stand-in's own needs no permission of the user's.
      own = this.#user ? await Connection.open(this.#redis) : work;
    } catch (error) {
      monitor.close();
      work?.close();
      own?.close();
      throw error;
    }
    const link = {
      work,
      own,
      get open() {
        return work.open && own.open && monitor.open;
      },
      close() {
        work.close();
        own.close();
        monitor.close();
      },
      closed: Promise.all([work.closed, own.closed, monitor.closed]),
    };
    // One without the others is of no use.
    work.closed.then(link.close);
    own.closed.then(link.close);
    monitor.closed.then(link.close);
    if (this.#stopped) link.close();
    return (this.#link = link);
  }
}

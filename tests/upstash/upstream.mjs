/**
 * Connects the stand-in to Redis: one connection for the commands, and one on which `MONITOR` reports what scripts run.
 *
 * # How billed commands are counted
 *
 * Upstash bills the commands that are sent and the commands that scripts run. The stand-in counts each command that it sends to Redis
 * once, including one that fails and an `EVALSHA` that answers `NOSCRIPT`. Upstash does not say that failures are free, so counting them
 * gives an upper bound. The stand-in itself adds the `MULTI` and `EXEC` of a transaction, and these do not count.
 *
 * Only Redis knows the commands that scripts run. `INFO commandstats` counts them for the whole server, including a test's own client.
 * `MONITOR` reports each command in order as it runs, with the address of the connection, or `lua` if a script ran it. Redis runs one
 * command at a time, so a `lua` line belongs to the nearest earlier line with an address. This attribution is exact, whatever else uses
 * the server.
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
   * @param {{name: string, password: string}} [user] the Redis user that runs the caller's commands; default: the default user
   */
  constructor(redis, user) {
    this.#redis = redis;
    this.#user = user;
  }

  /** Sends one command of a caller. Resolves with the reply, rejects with `RedisGone`. */
  async command(args) {
    const link = await this.#linked();
    this.#sent += 1;
    const [reply] = await link.work.send([args]);
    return reply;
  }

  /** Runs a caller's commands as one transaction. Resolves with the reply to `EXEC`, rejects with `RedisGone`. */
  async transaction(commands) {
    const link = await this.#linked();
    this.#sent += commands.length;
    const replies = await link.work.send([["MULTI"], ...commands, ["EXEC"]]);
    return replies.at(-1);
  }

  /** Removes all data and scripts, and resets the counts to 0. */
  async flush() {
    const link = await this.#linked();
    await link.own.send([["FLUSHALL"], ["SCRIPT", "FLUSH"]]);
    await this.#caughtUp();
    this.#sent = 0;
    this.#inScripts = 0;
    this.#ran.clear();
  }

  /** Returns how many commands Upstash would have billed so far, at least those whose replies were given. Waits while Redis is paused. */
  async billed() {
    await this.#caughtUp();
    return this.#sent + this.#inScripts;
  }

  /** Returns the names of the commands that callers have run so far, including those in scripts. */
  async ran() {
    await this.#caughtUp();
    return new Set(this.#ran);
  }

  close() {
    this.#stopped = true;
    this.#link?.close();
  }

  /** Waits until `MONITOR` has reported everything that ran before: it sends a command and waits until `MONITOR` reports that. */
  async #caughtUp() {
    const link = this.#link;
    if (!link?.open) return; // everything that it reported was read before its "close"
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

  /** Returns the connections, and opens new ones if they are closed. So the next command after a restart of Redis reconnects. */
  async #linked() {
    if (this.#stopped) throw new RedisGone("the stand-in was stopped");
    if (this.#link?.open) return this.#link;
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #connect() {
    let isOurs = false;
    let work, own;
    const monitor = await Connection.open(this.#redis, (line) => {
      const [, source, name, argument] = MONITORED.exec(line.text) ?? [];
      if (source === "lua") {
        if (isOurs) {
          this.#inScripts += 1;
          this.#ran.add(name.toUpperCase());
        }
        return;
      }
      isOurs = source === work?.address;
      if (source === own?.address && name.toUpperCase() === "ECHO") this.#markers.get(argument)?.();
      else if (isOurs && name.toUpperCase() !== "AUTH") this.#ran.add(name.toUpperCase());
    });
    try {
      await monitor.send([["MONITOR"]]); // before any other command, so that it reports all of them
      const opened = await Connection.open(this.#redis);
      if (this.#user) {
        const [reply] = await opened.send([["AUTH", this.#user.name, this.#user.password]]);
        if (reply instanceof ReplyError) throw new RedisGone(reply.message);
      }
      work = opened;
      // The stand-in's own commands must not need a permission of the user.
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
    // If one connection closes, close the others.
    work.closed.then(link.close);
    own.closed.then(link.close);
    monitor.closed.then(link.close);
    if (this.#stopped) link.close();
    return (this.#link = link);
  }
}

/**
 * A real `redis-server`, as a child of this process, for tests and development.
 *
 * Nothing is kept: no persistence, its own temporary directory, loopback only.
 */

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { createClient } from "redis";
import { freePort } from "./free-port.mjs";
import { onPath } from "./on-path.mjs";

/** Between asking the system for a free port and Redis binding it, somebody else can take it. */
const PORT_ATTEMPTS = 5;

/**
 * Starts a Redis and waits until it accepts connections.
 *
 * @param {object} [options]
 * @param {number} [options.port] the port to listen on; default: a free one
 * @param {string[]} [options.args] further arguments, e.g. `["--maxmemory", "2mb"]`
 * @param {string[]} [options.sentinel] lines of a Sentinel's configuration: it is a Sentinel then
 * @returns {Promise<RedisServer>}
 */
export async function startRedis({ port, args = [], sentinel } = {}) {
  if (!onPath("redis-server")) {
    throw new Error("redis-server is not on PATH. Install it: apt-get install redis-server (Debian, Ubuntu), brew install redis (macOS)");
  }
  for (let attempt = 1; ; attempt++) {
    const server = new RedisServer(port ?? (await freePort()), args, sentinel);
    try {
      await server.start();
      return server;
    } catch (error) {
      await server.stop();
      if (!error.portTaken || port !== undefined || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

/** One Redis: a port that stays, and a process that may be killed and started again on it. */
class RedisServer {
  #args;
  #dir = mkdtempSync(join(tmpdir(), "edge-limiter-redis-"));
  #child;
  #clients = new Set();
  #onExit = () => {
    this.#child?.kill("SIGKILL");
    rmSync(this.#dir, { recursive: true, force: true });
  };

  constructor(port, args, sentinel) {
    this.host = "127.0.0.1";
    this.port = port;
    const base = ["--port", String(port), "--bind", this.host, "--dir", this.#dir];
    if (sentinel) {
      // It writes what it learns into its file.
      const file = join(this.#dir, "sentinel.conf");
      writeFileSync(file, `${sentinel.join("\n")}\n`);
      this.#args = [file, "--sentinel", ...base, ...args];
    } else {
      this.#args = [...base, "--save", "", "--appendonly", "no", ...args];
    }
    process.on("exit", this.#onExit);
  }

  /** The process id; `undefined` while it does not run. */
  get pid() {
    return this.#child?.pid;
  }

  /** Starts the process, empty, on the same port. For after `kill()`. */
  async start() {
    if (this.#child) throw new Error(`Redis already runs as process ${this.pid}`);
    const command = ["redis-server", ...this.#args];
    // The exit hook does not run when this process is killed by a signal; the kernel's own does (Linux).
    if (onPath("setpriv")) command.unshift("setpriv", "--pdeathsig", "KILL", "--");
    const child = spawn(command[0], command.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    const exited = once(child, "exit").then(() => {
      if (this.#child === child) this.#child = undefined;
    });
    await ready(child, exited);
  }

  /** Ends the process as a crash would, and waits until it is gone. The port is kept for `start()`. */
  async kill() {
    const child = this.#child;
    if (!child) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
    this.#child = undefined;
  }

  /** Freezes the process: connections stay, nothing is answered. */
  pause() {
    this.#child.kill("SIGSTOP");
  }

  /** Undoes `pause()`. */
  resume() {
    this.#child.kill("SIGCONT");
  }

  /** Ends the process for good, and everything of it. There is nothing to save, so no more gently than `kill()`. */
  async stop() {
    for (const client of this.#clients) if (client.isOpen) client.destroy();
    this.#clients.clear();
    await this.kill();
    rmSync(this.#dir, { recursive: true, force: true });
    process.off("exit", this.#onExit);
  }

  /** A connected client of the npm package `redis`, closed by `stop()`. It does not reconnect: a killed Redis is seen. */
  async client() {
    const client = createClient({ socket: { host: this.host, port: this.port, reconnectStrategy: false } });
    client.on("error", () => {}); // every pending and later call rejects; this event would end the process
    await client.connect();
    this.#clients.add(client);
    return client;
  }
}

/** Resolves on Redis's own word that it listens; rejects with what it printed if it ends before that. */
async function ready(child, exited) {
  const printed = [];
  const listening = new Promise((resolve) => {
    // Read for as long as it runs: a full pipe would block Redis.
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        if (printed.length < 100) printed.push(line);
        if (/Ready to accept connections|Sentinel ID is/.test(line)) resolve(true);
      });
    }
  });
  if (await Promise.race([listening, exited])) return;
  const error = new Error(`redis-server did not start:\n${printed.join("\n")}`);
  error.portTaken = printed.some((line) => line.includes("Address already in use"));
  throw error;
}

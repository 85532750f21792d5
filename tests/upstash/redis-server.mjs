/**
 * A real `redis-server` as a child process, for tests and development.
 *
 * It has no persistence, its own temporary directory, and listens only on loopback.
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

/** How often to try another port, because another program can take a free port before Redis binds it. */
const PORT_ATTEMPTS = 5;

/**
 * Starts a Redis and waits until it accepts connections.
 *
 * @param {object} [options]
 * @param {number} [options.port] the port to listen on; default: a free one
 * @param {string[]} [options.args] further arguments, e.g. `["--maxmemory", "2mb"]`
 * @param {string[]} [options.sentinel] lines of a Sentinel's configuration. With them the server is a Sentinel
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

/** One Redis with a fixed port. Its process can be killed and started again. */
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
      // A Sentinel writes what it learns into its configuration file.
      const file = join(this.#dir, "sentinel.conf");
      writeFileSync(file, `${sentinel.join("\n")}\n`);
      this.#args = [file, "--sentinel", ...base, ...args];
    } else {
      this.#args = [...base, "--save", "", "--appendonly", "no", ...args];
    }
    process.on("exit", this.#onExit);
  }

  /** The process id, or `undefined` while the process does not run. */
  get pid() {
    return this.#child?.pid;
  }

  /** Starts an empty Redis on the same port, after `kill()`. */
  async start() {
    if (this.#child) throw new Error(`Redis already runs as process ${this.pid}`);
    const command = ["redis-server", ...this.#args];
    // The exit hook does not run when a signal kills this process. On Linux the kernel then kills the child.
    if (onPath("setpriv")) command.unshift("setpriv", "--pdeathsig", "KILL", "--");
    const child = spawn(command[0], command.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    const exited = once(child, "exit").then(() => {
      if (this.#child === child) this.#child = undefined;
    });
    await ready(child, exited);
  }

  /** Ends the process as a crash would, and waits until it has ended. `start()` uses the same port. */
  async kill() {
    const child = this.#child;
    if (!child) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
    this.#child = undefined;
  }

  /** Suspends the process. Connections stay open, but it answers nothing. */
  pause() {
    this.#child.kill("SIGSTOP");
  }

  /** Undoes `pause()`. */
  resume() {
    this.#child.kill("SIGCONT");
  }

  /** Ends the process, its clients and its files. It kills the process, because there is nothing to save. */
  async stop() {
    for (const client of this.#clients) if (client.isOpen) client.destroy();
    this.#clients.clear();
    await this.kill();
    rmSync(this.#dir, { recursive: true, force: true });
    process.off("exit", this.#onExit);
  }

  /** Connects a client of the npm package `redis`, which `stop()` closes. It does not reconnect, so that tests see a killed Redis. */
  async client() {
    const client = createClient({ socket: { host: this.host, port: this.port, reconnectStrategy: false } });
    client.on("error", () => {}); // every call rejects, and without a listener this event would end the process
    await client.connect();
    this.#clients.add(client);
    return client;
  }
}

/** Resolves once Redis reports that it listens. Rejects with its output if it ends before. */
async function ready(child, exited) {
  const printed = [];
  const listening = new Promise((resolve) => {
    // Keep reading while it runs, because a full pipe would block Redis.
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

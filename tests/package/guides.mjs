/** Runs the code of the migration guides. A block whose fence names a file, such as `js before.mjs`, is that file. */

import { fork } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { root, serve, wrangler } from "./scratch.mjs";

const FENCE = /^```\w+ (\S+)\n([^]*?)^```$/gm;

const START_TIMEOUT_MS = 30_000;

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Returns a guide's files by name. */
export function filesOf(guide) {
  const text = readFileSync(path.join(root, "docs", "migration", `${guide}.md`), "utf8");
  return Object.fromEntries([...text.matchAll(FENCE)].map(([, name, content]) => [name, content]));
}

/** A program of a guide. The test can advance its clock. */
class Program {
  #child;
  #printed = "";

  constructor(file, args, env) {
    const clock = pathToFileURL(here("clock.mjs")).href;
    this.#child = fork(file, args, { env: { PATH: process.env.PATH, ...env }, execArgv: ["--import", clock], stdio: ["ignore", "pipe", "pipe", "ipc"] });
    for (const stream of [this.#child.stdout, this.#child.stderr]) stream.on("data", (data) => (this.#printed += data));
  }

  get printed() {
    return this.#printed;
  }

  get ended() {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  post(message) {
    this.#child.send(message);
  }

  /** Resolves with the first message that `accepts` accepts. Rejects if the program ends. */
  answer(accepts) {
    return new Promise((resolve, reject) => {
      const onMessage = (message) => {
        if (!accepts(message)) return;
        this.#child.off("message", onMessage).off("exit", onExit);
        resolve(message);
      };
      const onExit = (code) => reject(new Error(`the program ended with exit code ${code}:\n${this.#printed}`));
      this.#child.on("message", onMessage).once("exit", onExit);
    });
  }

  /** Advances the program's clock and returns its new time. */
  async advance(seconds) {
    const answer = this.answer(({ now }) => now !== undefined);
    this.post({ advance: 1000 * seconds });
    return (await answer).now;
  }

  async stop() {
    if (this.ended) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }
}

/** Starts a process in which the exports of a module can be called. It is stopped when the test ends. */
export async function startModule(t, file, env = {}) {
  const program = new Program(here("calls.mjs"), [file], env);
  t.after(() => program.stop());
  await program.answer(({ ready }) => ready);
  let calls = 0;
  const call = async (name, ...args) => {
    const id = (calls += 1);
    const answer = program.answer((message) => message.id === id);
    program.post({ id, call: name, args });
    const { result, error } = await answer;
    if (error) throw new Error(`${error}\n${program.printed}`);
    return result;
  };
  return { call, advance: (seconds) => program.advance(seconds) };
}

/** Starts a server that listens on `PORT`. It is stopped when the test ends. */
export async function startServer(t, file) {
  const port = await freePort();
  const program = new Program(file, [], { PORT: String(port) });
  t.after(() => program.stop());
  await within(listening(program, port), "the server to listen", START_TIMEOUT_MS);
  return { ask: (options) => send(`http://127.0.0.1:${port}`, options), advance: (seconds) => program.advance(seconds) };
}

/** Waits until the server accepts connections. It sends no request, because the limiter would count it. */
async function listening(program, port) {
  for (;;) {
    if (program.ended) throw new Error(`the server ended before it listened:\n${program.printed}`);
    const socket = connect(port, "127.0.0.1");
    try {
      await once(socket, "connect");
      return;
    } catch {
      await delay(20);
    } finally {
      socket.destroy();
    }
  }
}

/**
 * Starts a Worker from the folder of its `wrangler.toml`, and returns a function that sends requests to it. It is stopped when the test
 * ends. Each Worker runs in a copy of the folder, because two wranglers in one folder disturb each other.
 */
export async function startWorker(t, folder, vars = {}) {
  const inspector = String(await freePort());
  const copy = `${folder}-${inspector}`;
  cpSync(folder, copy, { recursive: true });
  const varArgs = Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
  const args = (port) => [wrangler, "dev", "--ip", "127.0.0.1", "--port", String(port), "--inspector-port", inspector, ...varArgs];
  const server = await serve(t, process.execPath, args, { cwd: copy, env: { WRANGLER_REGISTRY_PATH: path.join(copy, ".registry") } });
  await ready(server);
  return (options) => send(server.url, options);
}

/** Waits until wrangler reports that it is ready. Before that, it may close its port once more. */
export async function ready({ printed }) {
  for (const end = Date.now() + START_TIMEOUT_MS; !printed().includes("Ready on"); await delay(20)) {
    if (Date.now() > end) throw new Error(`wrangler was not ready after ${START_TIMEOUT_MS} ms:\n${printed()}`);
  }
}

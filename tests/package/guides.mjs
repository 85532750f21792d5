/** The code of the migration guides, run: a block whose fence names a file, such as `js before.mjs`, is that file. */

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

const STARTING_MS = 30_000;

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

/** A guide's files, by their names. */
export function filesOf(guide) {
  const text = readFileSync(path.join(root, "docs", "migration", `${guide}.md`), "utf8");
  return Object.fromEntries([...text.matchAll(FENCE)].map(([, name, content]) => [name, content]));
}

/** A program of a guide, whose clock the test moves. */
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

  /** The first message that `wanted` accepts. */
  answer(wanted) {
    return new Promise((resolve, reject) => {
      const look = (message) => {
        if (!wanted(message)) return;
        this.#child.off("message", look).off("exit", gone);
        resolve(message);
      };
      const gone = (code) => reject(new Error(`ended with ${code}:\n${this.#printed}`));
      this.#child.on("message", look).once("exit", gone);
    });
  }

  /** Moves its clock ahead; what it shows then. */
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

/** A module whose exports are called in its own process. It ends with the test. */
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

/** A server that listens on `PORT`. It ends with the test. */
export async function startServer(t, file) {
  const port = await freePort();
  const program = new Program(file, [], { PORT: String(port) });
  t.after(() => program.stop());
  await within(listening(program, port), "a connection", STARTING_MS);
  return { ask: (options) => send(`http://127.0.0.1:${port}`, options), advance: (seconds) => program.advance(seconds) };
}

/** Nothing is sent: a limiter would count it. */
async function listening(program, port) {
  for (;;) {
    if (program.ended) throw new Error(`it has ended:\n${program.printed}`);
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

/** A Worker by the folder of its `wrangler.toml`; what asks it. It ends with the test. Each has a copy: two wranglers in one folder disturb each other. */
export async function startWorker(t, folder, vars = {}) {
  const inspector = String(await freePort());
  const copy = `${folder}-${inspector}`;
  cpSync(folder, copy, { recursive: true });
  const given = Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]);
  const args = (port) => [wrangler, "dev", "--ip", "127.0.0.1", "--port", String(port), "--inspector-port", inspector, ...given];
  const server = await serve(t, process.execPath, args, { cwd: copy, env: { WRANGLER_REGISTRY_PATH: path.join(copy, ".registry") } });
  await ready(server);
  return (options) => send(server.url, options);
}

/** Waits until wrangler says that it is ready: before, it may close its port once more. */
export async function ready({ printed }) {
  for (const end = Date.now() + STARTING_MS; !printed().includes("Ready on"); await delay(20)) {
    if (Date.now() > end) throw new Error(`wrangler does not become ready:\n${printed()}`);
  }
}

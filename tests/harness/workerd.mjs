/**
 * The built Worker in bare `workerd serve`, as a child of this process: the real runtime and nothing around it, so that
 * a test can have several at once, each with its own variables, and nothing between it and the Worker.
 *
 * Bare workerd sets no `CF-Connecting-IP`: a test sends it and is thereby whichever caller it wants to be.
 */

import { spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { EventEmitter, once } from "node:events";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { within } from "./within.mjs";
import { onPath } from "../upstash/on-path.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Printed lines that are kept. */
const REMEMBERED = 10_000;

/**
 * Starts a Worker and waits until it listens, on a port of its own choosing.
 *
 * @param {object} [options]
 * @param {Record<string, unknown>} [options.vars] strings become text bindings, everything else JSON ones, as wrangler makes them
 * @param {Record<string, string>} [options.services] service bindings to HTTP servers, e.g. `{ORIGIN: "http://127.0.0.1:1234"}`
 * @param {string} [options.outbound] the HTTP server that the Worker's own `fetch` reaches, whatever the URL: what a route's
 *   origin is on Cloudflare. Default: the network
 * @param {string[]} [options.certificates] in PEM: what signs the servers that it may trust, in place of public authorities
 * @param {string} [options.cfHeader] the request header whose JSON becomes `request.cf`, which Cloudflare's network sets. Default:
 *   workerd's own, which knows of no data center
 * @param {Record<string, string | Buffer>} [options.modules] modules before the Worker's own, the first of which is the main
 *   one: text is JavaScript, a buffer WebAssembly. They may import `./index.js`
 * @param {string} [options.folder] where another Worker's `index.js` is, and its `index_bg.wasm` and `page_files.js` if it
 *   has them; default: `build`
 * @param {boolean} [options.inspected] whether V8's inspector listens, at `inspector`
 * @param {string[]} [options.args] further arguments, e.g. `["--verbose"]`
 * @returns {Promise<Workerd>}
 */
export async function startWorkerd({ vars = {}, services = {}, outbound, certificates, cfHeader, modules = {}, folder = join(root, "build"), inspected = false, args = [] } = {}) {
  const inspector = inspected ? ["--inspector-addr=127.0.0.1:0"] : [];
  const files = ["index.js", "index_bg.wasm", "page_files.js"].filter((file) => file === "index.js" || existsSync(join(folder, file)));
  const workerd = new Workerd(config(vars, services, outbound, certificates, cfHeader, modules, files), modules, folder, files, [...inspector, ...args]);
  try {
    await workerd.start();
    return workerd;
  } catch (error) {
    await workerd.stop();
    throw error;
  }
}

/** One process with one Worker: `url`, `port`, `pid`, `inspector`, `logs()`, `logged()`, `stop()`. */
class Workerd {
  #dir = mkdtempSync(join(tmpdir(), "edge-limiter-workerd-"));
  #args;
  #child;
  #gone;
  #printed = [];
  #lines = new EventEmitter();
  #onExit = () => {
    this.#child?.kill("SIGKILL");
    rmSync(this.#dir, { recursive: true, force: true });
  };

  constructor(text, modules, folder, files, args) {
    this.#args = args;
    // Copies: `embed` reads only beneath the file, and a build meanwhile must not change what runs.
    for (const file of files) copyFileSync(join(folder, file), join(this.#dir, file));
    for (const [file, content] of Object.entries(modules)) writeFileSync(join(this.#dir, file), content);
    writeFileSync(join(this.#dir, "config.capnp"), text);
    process.on("exit", this.#onExit);
  }

  /** The process id; `undefined` once it has ended. */
  get pid() {
    return this.#child?.pid;
  }

  async start() {
    // workerd says on descriptor 3 when it listens, and where: nothing to poll, no port to guess.
    const command = [
      createRequire(import.meta.url).resolve("workerd/bin/workerd"), "serve", "config.capnp",
      "--socket-addr=http=127.0.0.1:0", "--control-fd=3", ...this.#args,
    ];
    // The exit hook does not run when this process is killed by a signal; the kernel's own does (Linux).
    if (onPath("setpriv")) command.unshift("setpriv", "--pdeathsig", "KILL", "--");
    const child = spawn(command[0], command.slice(1), { cwd: this.#dir, stdio: ["ignore", "pipe", "pipe", "pipe"] });
    this.#child = child;
    // Closed, not only exited: then all that it printed has been read.
    this.#gone = once(child, "close").catch((error) => this.#printed.push(String(error))).then(() => {
      this.#child = undefined;
    });
    // Read for as long as it runs: a full pipe would block it.
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        if (this.#printed.length < REMEMBERED) this.#printed.push(line);
        this.#lines.emit("line");
      });
    }
    const ports = await Promise.race([listening(child.stdio[3]), this.#gone]);
    if (ports === undefined) throw new Error(`workerd did not start:\n${this.logs()}`);
    this.port = ports.http;
    this.url = `http://127.0.0.1:${this.port}`;
    /** Where V8's inspector listens, if it was asked for. */
    this.inspector = ports.inspector && `ws://127.0.0.1:${ports.inspector}/main`;
    // It has read everything: nothing is left behind, even should this process be killed.
    rmSync(this.#dir, { recursive: true, force: true });
  }

  /** What it printed so far, the Worker's `console` included. */
  logs() {
    return this.#printed.join("\n");
  }

  /**
   * Waits until it has printed what matches: a response can overtake the lines that were printed before it.
   *
   * @param {RegExp} pattern
   * @param {number} [times] how often
   * @returns {Promise<void>}
   */
  async logged(pattern, times = 1) {
    const stop = new AbortController();
    const everywhere = new RegExp(pattern, "g");
    const found = async () => {
      while ([...this.logs().matchAll(everywhere)].length < times) await once(this.#lines, "line", { signal: stop.signal });
    };
    try {
      await within(found(), `${pattern} among what workerd printed`);
    } finally {
      stop.abort();
    }
  }

  /** Whether it still runs: it must, whatever a test did to it. */
  get alive() {
    return this.#child !== undefined;
  }

  /** Ends the process and everything of it. It has nothing to save. */
  async stop() {
    this.#child?.kill("SIGKILL");
    await this.#gone;
    rmSync(this.#dir, { recursive: true, force: true });
    process.off("exit", this.#onExit);
  }
}

/** The ports in workerd's word that it listens. The inspector's comes first, where there is one. */
function listening(control) {
  const ports = {};
  return new Promise((resolve) => {
    createInterface({ input: control }).on("line", (line) => {
      const { event, socket, port } = JSON.parse(line);
      if (event === "listen-inspector") ports.inspector = port;
      if (event === "listen" && socket === "http") resolve({ ...ports, http: port });
    });
  });
}

/** https://github.com/cloudflare/workerd/blob/main/src/workerd/server/workerd.capnp */
function config(vars, services, outbound, certificates, cfHeader, modules, files) {
  const bindings = [
    ...Object.entries(vars).map(([name, value]) =>
      typeof value === "string"
        ? `(name = ${quoted(name)}, text = ${quoted(value)})`
        : `(name = ${quoted(name)}, json = ${quoted(JSON.stringify(value))})`,
    ),
    ...Object.keys(services).map((name) => `(name = ${quoted(name)}, service = ${quoted(`service-${name}`)})`),
  ];
  const module = (name, kind) => `(name = ${quoted(name)}, ${kind} = embed ${quoted(name)}),`;
  const before = Object.entries(modules).map(([name, content]) => module(name, typeof content === "string" ? "esModule" : "wasm"));
  const own = files.map((file) => module(file, file.endsWith(".js") ? "esModule" : "wasm"));
  const external = (name, url) => `(name = ${quoted(name)}, external = (address = ${quoted(new URL(url).host)}, http = ())),`;
  const trusted = certificates && `, tlsOptions = (trustedCertificates = [${certificates.map(quoted).join(", ")}])`;
  const externals = Object.entries(services).map(([name, url]) => external(`service-${name}`, url));
  if (outbound) externals.push(external("outbound", outbound));
  return `using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .worker),
    # Loopback is refused unless private addresses are allowed.
    (name = "network", network = (allow = ["public", "private"]${trusted ?? ""})),
    ${externals.join("\n    ")}
  ],
  sockets = [(name = "http", http = (${cfHeader ? `cfBlobHeader = ${quoted(cfHeader)}` : ""}), service = "main")],
);

const worker :Workerd.Worker = (
  modules = [
    ${[...before, ...own].join("\n    ")}
  ],
  compatibilityDate = ${quoted(compatibilityDate())},
  globalOutbound = ${outbound ? '"outbound"' : '"network"'},
  bindings = [
    ${bindings.join(",\n    ")}
  ],
);
`;
}

/** wrangler.toml's own, so that what is tested is what is deployed. */
function compatibilityDate() {
  const [, date] = /^compatibility_date = "(.*)"$/m.exec(readFileSync(join(root, "wrangler.toml"), "utf8"));
  return date;
}

/** Cap'n Proto's text form: JSON's, but for `\u`. */
function quoted(text) {
  const escaped = text.replace(/["\\\x00-\x1f\x7f]/g, (found) => `\\x${found.charCodeAt(0).toString(16).padStart(2, "0")}`);
  return `"${escaped}"`;
}

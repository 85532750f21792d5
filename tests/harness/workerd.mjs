/**
 * The built Worker in plain `workerd serve`, as a child process: the real runtime without wrangler. A test can start several at once,
 * each with its own variables, and reaches the Worker directly.
 *
 * Plain workerd does not set `CF-Connecting-IP`. A test sends the header and so chooses its caller.
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

/** How many printed lines are kept. */
const MAX_LINES = 10_000;

/**
 * Starts a Worker and waits until it listens, on a free port.
 *
 * @param {object} [options]
 * @param {Record<string, unknown>} [options.vars] strings become text bindings and everything else JSON bindings, as in wrangler
 * @param {Record<string, string>} [options.services] service bindings to HTTP servers, e.g. `{ORIGIN: "http://127.0.0.1:1234"}`
 * @param {string} [options.outbound] the HTTP server that receives every `fetch` of the Worker, whatever the URL, as the origin of a
 *   route does on Cloudflare. Default: the network
 * @param {string[]} [options.certificates] PEM certificates of the authorities that the Worker trusts in place of the public ones
 * @param {string} [options.cfHeader] the request header whose JSON becomes `request.cf`, which Cloudflare's network sets. Default:
 *   workerd's own `request.cf`, without a data center
 * @param {Record<string, string | Buffer>} [options.modules] modules in front of the Worker's modules. The first is the main module.
 *   Text is JavaScript, a buffer is WebAssembly. They may import `./index.js`
 * @param {string} [options.folder] the folder of the Worker's `index.js`, and of its `index_bg.wasm` and `page_files.js` if it
 *   has them; default: `build`
 * @param {boolean} [options.inspected] whether V8's inspector listens. Its address is `inspector`
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
  #closed;
  #printed = [];
  #lines = new EventEmitter();
  #onExit = () => {
    this.#child?.kill("SIGKILL");
    rmSync(this.#dir, { recursive: true, force: true });
  };

  constructor(text, modules, folder, files, args) {
    this.#args = args;
    // Copies, because `embed` reads only below the configuration's folder, and a build must not change a running test.
    for (const file of files) copyFileSync(join(folder, file), join(this.#dir, file));
    for (const [file, content] of Object.entries(modules)) writeFileSync(join(this.#dir, file), content);
    writeFileSync(join(this.#dir, "config.capnp"), text);
    process.on("exit", this.#onExit);
  }

  /** The process id, or `undefined` once the process has ended. */
  get pid() {
    return this.#child?.pid;
  }

  async start() {
    // workerd reports on descriptor 3 when and where it listens, so there is no need to poll or to guess a port.
    const command = [
      createRequire(import.meta.url).resolve("workerd/bin/workerd"), "serve", "config.capnp",
      "--socket-addr=http=127.0.0.1:0", "--control-fd=3", ...this.#args,
    ];
    // The exit hook does not run when a signal kills this process. On Linux the kernel then kills the child.
    if (onPath("setpriv")) command.unshift("setpriv", "--pdeathsig", "KILL", "--");
    const child = spawn(command[0], command.slice(1), { cwd: this.#dir, stdio: ["ignore", "pipe", "pipe", "pipe"] });
    this.#child = child;
    // "close" comes after "exit", when everything that it printed has been read.
    this.#closed = once(child, "close").catch((error) => this.#printed.push(String(error))).then(() => {
      this.#child = undefined;
    });
    // Keep reading while it runs, because a full pipe would block it.
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => {
        if (this.#printed.length < MAX_LINES) this.#printed.push(line);
        this.#lines.emit("line");
      });
    }
    const ports = await Promise.race([listening(child.stdio[3]), this.#closed]);
    if (ports === undefined) throw new Error(`workerd did not start:\n${this.logs()}`);
    this.port = ports.http;
    this.url = `http://127.0.0.1:${this.port}`;
    /** The address of V8's inspector, if `inspected` was set. */
    this.inspector = ports.inspector && `ws://127.0.0.1:${ports.inspector}/main`;
    // workerd has read all files. Removing them now leaves nothing behind even if this process is killed.
    rmSync(this.#dir, { recursive: true, force: true });
  }

  /** Returns everything printed so far, including the Worker's `console`. */
  logs() {
    return this.#printed.join("\n");
  }

  /**
   * Waits until printed lines match. Lines that were printed before a response can arrive after it.
   *
   * @param {RegExp} pattern
   * @param {number} [times] how many matches to wait for
   * @returns {Promise<void>}
   */
  async logged(pattern, times = 1) {
    const stop = new AbortController();
    const everywhere = new RegExp(pattern, "g");
    const found = async () => {
      while ([...this.logs().matchAll(everywhere)].length < times) await once(this.#lines, "line", { signal: stop.signal });
    };
    try {
      await within(found(), `workerd to print ${pattern}`);
    } finally {
      stop.abort();
    }
  }

  /** Whether the process still runs. No test may make it end. */
  get alive() {
    return this.#child !== undefined;
  }

  /** Kills the process, which has nothing to save, and removes its files. */
  async stop() {
    this.#child?.kill("SIGKILL");
    await this.#closed;
    rmSync(this.#dir, { recursive: true, force: true });
    process.off("exit", this.#onExit);
  }
}

/** Resolves with the ports that workerd reports. It reports the inspector's port, if any, first. */
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

/** Reads the compatibility date of wrangler.toml, so that tests run what is deployed. */
function compatibilityDate() {
  const [, date] = /^compatibility_date = "(.*)"$/m.exec(readFileSync(join(root, "wrangler.toml"), "utf8"));
  return date;
}

/** Quotes text for Cap'n Proto, which differs from JSON in having no `\u`. */
function quoted(text) {
  const escaped = text.replace(/["\\\x00-\x1f\x7f]/g, (found) => `\\x${found.charCodeAt(0).toString(16).padStart(2, "0")}`);
  return `"${escaped}"`;
}

/**
 * `npm start [-- --port N]`: serves the limiter on http://localhost:8787, with its counters in memory. No account is needed.
 * `npm run dev:redis`: the same with its counters in a local Redis behind a stand-in for Upstash's REST API.
 * All other arguments go to `wrangler dev`. The control plane opens with an ADMIN_TOKEN made for this run, unless the user has set one.
 */
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import { Failure, ended, main, output, root, say, start } from "./command.mjs";
import { makeToken, storeToken } from "./token.mjs";

/** The port in wrangler.toml. */
const PORT = "8787";

/** How often to check whether the limiter serves. */
const POLL_MS = 200;

/** The process of npm's shell, if npm started this. A signal to npm ends npm and the shell, but does not reach this process. */
const parent = process.env.npm_lifecycle_event ? process.ppid : undefined;

await main(import.meta.url, async (args) => {
  const redis = args.includes("--redis");
  await build({ redis });
  const upstash = redis ? await startUpstash() : undefined;
  // On the command line these override wrangler.toml and .dev.vars, so a real Upstash that is configured there is not used.
  const vars = upstash
    ? { REDIS_ENABLED: "true", UPSTASH_REDIS_REST_URL: upstash.url, UPSTASH_REDIS_REST_TOKEN: upstash.token }
    : { REDIS_ENABLED: "false" };
  let removeToken;
  try {
    removeToken = await openControlPlane(vars, args);
    process.exitCode = await wranglerDev([
      ...(process.stdin.isTTY && process.stdout.isTTY ? [] : ["--show-interactive-dev-session=false"]),
      ...Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]),
      ...args.filter((arg) => arg !== "--redis"),
    ]);
  } finally {
    removeToken?.();
    await upstash?.stop();
  }
});

/**
 * Adds an ADMIN_TOKEN to `vars` unless the user has set one, and prints where the page is and which token opens it. It never
 * prints the user's own token. @returns {() => void} removes the stored token; call it at the end
 */
async function openControlPlane(vars, args) {
  const options = {
    port: { type: "string", default: PORT }, env: { type: "string", short: "e" }, config: { type: "string", short: "c" },
    var: { type: "string", multiple: true, default: [] },
  };
  const { port, env, config, var: variables } = parseArgs({ args, options, strict: false }).values;
  const url = `http://localhost:${port}`;
  say(`the page for operators: ${url}/_limiter/`);
  const configured = variables.some((pair) => String(pair).startsWith("ADMIN_TOKEN:")) || isConfigured(env, config);
  if (configured || process.env.ADMIN_TOKEN) {
    // wrangler does not pass the variables of this process to the Worker.
    if (!configured) vars.ADMIN_TOKEN = process.env.ADMIN_TOKEN;
    say("ADMIN_TOKEN, which opens it: your own");
    return () => {};
  }
  const token = makeToken();
  vars.ADMIN_TOKEN = token;
  say(`ADMIN_TOKEN, which opens it, made for this run: ${token}`);
  const ending = new AbortController();
  let removeToken;
  opens(url, token, ending.signal).then((isOpen) => {
    if (!isOpen) return;
    removeToken = storeToken(port, token);
    say(`to see some traffic on the page: npm run try${port === PORT ? "" : ` -- ${url}`}`);
  }).catch((error) => say(`npm run try will not find the token, because it cannot be stored: ${error.message}`));
  return () => {
    ending.abort();
    removeToken?.();
  };
}

/**
 * Whether wrangler.toml or a file next to it sets an ADMIN_TOKEN. A separate process finds out, because wrangler, once loaded, installs signal
 * handlers.
 */
function isConfigured(env, config) {
  const named = Object.entries({ env, config }).filter(([, value]) => value !== undefined);
  return output(process.execPath, [path.join(root, "scripts", "check-config.mjs"), "--has", "ADMIN_TOKEN", ...named.map(([name, value]) => `--${name}=${value}`)]) === "yes";
}

/**
 * Waits until the limiter on the port accepts the token, and returns whether it does. `false` if another limiter has the port, or after
 * `ending` is aborted.
 */
async function opens(url, token, ending) {
  while (!ending.aborted) {
    try {
      const answer = await fetch(`${url}/_limiter/blocked?limit=1`, { headers: { Authorization: `Bearer ${token}` }, signal: ending });
      if (answer.ok) return true;
      if (answer.status === 401) return false;
    } catch {
      // It does not serve yet.
    }
    await sleep(POLL_MS, undefined, { signal: ending, ref: false }).catch(() => {});
  }
  return false;
}

/**
 * Runs `wrangler dev` until it ends or this process gets a signal. Ending by a signal is a success, because it is the only way to end.
 * In a terminal Ctrl-C reaches wrangler as well, so wrangler gets 200 ms to end before it is sent a signal again.
 */
async function wranglerDev(args) {
  const wrangler = path.join(root, "node_modules", "wrangler", "bin", "wrangler.js");
  const child = start(process.execPath, [wrangler, "dev", ...args]);
  let stopping = false;
  const stop = () => {
    if (stopping) return;
    stopping = true;
    setTimeout(() => child.kill("SIGTERM"), 200).unref();
    setTimeout(() => child.kill("SIGKILL"), 10_000).unref();
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, stop);
  setInterval(() => parent !== undefined && process.ppid !== parent && stop(), 500).unref();
  const code = await ended(child);
  return stopping ? 0 : code;
}

/** Starts the stand-in for Upstash and reads the line that says where it listens. The stand-in ends when its standard input ends. */
export async function startUpstash() {
  say("starting a local Redis and a stand-in for Upstash's REST API");
  const child = start(process.execPath, [path.join("tests", "upstash", "cli.mjs")], {
    stdio: ["pipe", "pipe", "inherit"],
    // In its own process group, so that Ctrl-C does not end it before the limiter that uses it.
    detached: true,
  });
  const end = ended(child);
  const line = await Promise.race([
    new Promise((resolve) => createInterface({ input: child.stdout }).once("line", resolve)),
    end.then((code) => {
      throw new Failure(`the stand-in for Upstash ended with exit code ${code} before it was ready; its output above says why`);
    }),
  ]);
  const { url, token, redisPort } = JSON.parse(line);
  say(`Upstash stand-in on ${url}; look at the counters with: redis-cli -p ${redisPort} --scan`);
  return {
    url,
    token,
    async stop() {
      child.stdin.end();
      const timer = setTimeout(() => child.kill("SIGTERM"), 3000);
      await end;
      clearTimeout(timer);
    },
  };
}

/**
 * `npm start [-- --port N]`: the limiter on http://localhost:8787, counting in memory, without an account anywhere.
 * `npm run dev:redis`: the same with its counters in a local Redis behind a stand-in for Upstash's REST API.
 * Arguments that are not named here go to `wrangler dev`. The control plane is open with an ADMIN_TOKEN of this run, unless the
 * user has set one.
 */
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import { Failure, ended, main, output, root, say, start } from "./command.mjs";
import { leaveToken, makeToken } from "./token.mjs";

/** wrangler.toml's own. */
const PORT = "8787";

/** Between two looks at whether the limiter serves. */
const POLL_MS = 200;

/** npm's shell, when npm started this. A signal to npm ends npm and that shell, and is not passed on to here. */
const parent = process.env.npm_lifecycle_event ? process.ppid : undefined;

await main(import.meta.url, async (args) => {
  const redis = args.includes("--redis");
  await build({ redis });
  const upstash = redis ? await startUpstash() : undefined;
  // Given on the command line, these win over wrangler.toml and .dev.vars: a real Upstash named there is left alone.
  const vars = upstash
    ? { REDIS_ENABLED: "true", UPSTASH_REDIS_REST_URL: upstash.url, UPSTASH_REDIS_REST_TOKEN: upstash.token }
    : { REDIS_ENABLED: "false" };
  let takeTokenAway;
  try {
    takeTokenAway = await openControlPlane(vars, args);
    process.exitCode = await wranglerDev([
      ...(process.stdin.isTTY && process.stdout.isTTY ? [] : ["--show-interactive-dev-session=false"]),
      ...Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]),
      ...args.filter((arg) => arg !== "--redis"),
    ]);
  } finally {
    takeTokenAway?.();
    await upstash?.stop();
  }
});

/**
 * Sees to it that `vars` have an ADMIN_TOKEN where the user has set none, and says where the page is and what opens it. The
 * user's own is not printed. @returns {() => void} to be called at the end
 */
async function openControlPlane(vars, args) {
  const options = {
    port: { type: "string", default: PORT }, env: { type: "string", short: "e" }, config: { type: "string", short: "c" },
    var: { type: "string", multiple: true, default: [] },
  };
  const given = parseArgs({ args, options, strict: false }).values;
  const { port, env, config } = given;
  const url = `http://localhost:${port}`;
  say(`the page for operators: ${url}/_limiter/`);
  const configured = given.var.some((pair) => String(pair).startsWith("ADMIN_TOKEN:")) || isConfigured(env, config);
  if (configured || process.env.ADMIN_TOKEN) {
    // Nothing else hands a variable of this process on to the Worker.
    if (!configured) vars.ADMIN_TOKEN = process.env.ADMIN_TOKEN;
    say("ADMIN_TOKEN, which opens it: your own");
    return () => {};
  }
  const token = makeToken();
  vars.ADMIN_TOKEN = token;
  say(`ADMIN_TOKEN, which opens it, made for this run: ${token}`);
  const over = new AbortController();
  let takeAway;
  opened(url, token, over.signal).then((isOpen) => {
    if (!isOpen) return;
    takeAway = leaveToken(port, token);
    say(`to see something on the page: npm run try${port === PORT ? "" : ` -- ${url}`}`);
  }).catch((error) => say(`npm run try will not find the token: ${error.message}`));
  return () => {
    over.abort();
    takeAway?.();
  };
}

/** Whether wrangler.toml or a file beside it sets an ADMIN_TOKEN. Asked in a process of its own: wrangler, once loaded, takes signals. */
function isConfigured(env, config) {
  const named = Object.entries({ env, config }).filter(([, value]) => value !== undefined);
  return output(process.execPath, [path.join(root, "scripts", "check-config.mjs"), "--has", "ADMIN_TOKEN", ...named.map(([name, value]) => `--${name}=${value}`)]) === "yes";
}

/** Waits until the token opens what serves there: another limiter may have the port. Whether it does before it is all over. */
async function opened(url, token, over) {
  while (!over.aborted) {
    try {
      const answer = await fetch(`${url}/_limiter/blocked?limit=1`, { headers: { Authorization: `Bearer ${token}` }, signal: over });
      if (answer.ok) return true;
      if (answer.status === 401) return false;
    } catch {
      // Not yet.
    }
    await sleep(POLL_MS, undefined, { signal: over, ref: false }).catch(() => {});
  }
  return false;
}

/**
 * Runs `wrangler dev` until it ends or this process is told to. Being told is a success, as it is the only way to end.
 * In a terminal Ctrl-C reaches wrangler as well, so it gets a moment to end by itself before it is told again.
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

/** Starts the stand-in and reads the one line that says where it listens. It ends with its standard input. */
export async function startUpstash() {
  say("starting a local Redis and a stand-in for Upstash's REST API");
  const child = start(process.execPath, [path.join("tests", "upstash", "cli.mjs")], {
    stdio: ["pipe", "pipe", "inherit"],
    // A process group of its own: Ctrl-C must not end it before the limiter that talks to it.
    detached: true,
  });
  const over = ended(child);
  const line = await Promise.race([
    new Promise((resolve) => createInterface({ input: child.stdout }).once("line", resolve)),
    over.then((code) => {
      throw new Failure(`the stand-in for Upstash ended with exit code ${code} before it was ready`);
    }),
  ]);
  const { url, token, redisPort } = JSON.parse(line);
  say(`Upstash stand-in on ${url}; look at the counters with: redis-cli -p ${redisPort} --scan`);
  return {
    url,
    token,
    async stop() {
      child.stdin.end();
      const giveUp = setTimeout(() => child.kill("SIGTERM"), 3000);
      await over;
      clearTimeout(giveUp);
    },
  };
}

/**
 * `npm start [-- --port N]`: the limiter on http://localhost:8787, counting in memory, without an account anywhere.
 * `npm run dev:redis`: the same with its counters in a local Redis behind a stand-in for Upstash's REST API.
 * Arguments that are not named here go to `wrangler dev`.
 */
import path from "node:path";
import { createInterface } from "node:readline";
import { build } from "./build.mjs";
import { Failure, ended, main, root, say, start } from "./command.mjs";

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
  try {
    process.exitCode = await wranglerDev([
      ...(process.stdin.isTTY && process.stdout.isTTY ? [] : ["--show-interactive-dev-session=false"]),
      ...Object.entries(vars).flatMap(([name, value]) => ["--var", `${name}:${value}`]),
      ...args.filter((arg) => arg !== "--redis"),
    ]);
  } finally {
    await upstash?.stop();
  }
});

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

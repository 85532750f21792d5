/** A redis-server for the tests and for `npm run dev:redis`, behind a stand-in for Upstash. Nothing that is deployed needs one. */
import { existsSync } from "node:fs";
import { Failure, output, run, say } from "./command.mjs";

/** Installs redis-server where that needs no question asked, and otherwise says how to. */
export async function ensureRedis() {
  if (isInstalled()) return;
  if (process.getuid?.() === 0 && existsSync("/usr/bin/apt-get")) {
    say("redis-server, which the tests and dev:redis run on a port of their own (apt-get, about 20 seconds)");
    // Runlevel 1 makes Debian's maintainer scripts leave the system-wide service alone.
    const env = { DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
    const quiet = { env, stdio: ["ignore", "ignore", "inherit"] };
    await run("apt-get", ["update", "-qq"], quiet);
    await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", "redis-server"], quiet);
    if (isInstalled()) return;
  }
  throw new Failure(
    [
      "redis-server is not installed; the tests and `npm run dev:redis` need it (`npm start` does not). Install it with",
      "  Debian, Ubuntu:  sudo apt-get install redis-server",
      "  Fedora:          sudo dnf install valkey-compat-redis   (or: redis)",
      "  macOS:           brew install redis",
    ].join("\n"),
  );
}

function isInstalled() {
  return output("redis-server", ["--version"]) !== undefined;
}

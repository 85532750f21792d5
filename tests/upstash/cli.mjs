#!/usr/bin/env node
/**
 * Runs the stand-in with its own Redis as a process, for other programs.
 *
 *     node tests/upstash/cli.mjs [--port N] [--token T] [--no-stdin] [--redis-port N] [--unchanged] [--refusal ERROR] [--bridge]
 *
 * Prints one line of JSON, `{"url","token","redisPort","pid"}`, when it is ready. It ends, together with its Redis, on SIGTERM, on
 * SIGINT, or when its stdin ends, so that it cannot outlive the program that holds the other end.
 * `--no-stdin`: ends only on the signals, for a shell that gives it `/dev/null`. `--redis-port`: uses a Redis that already runs on
 * this machine. `--unchanged` and `--refusal`: see `scripts.mjs`. `--bridge`: see `bridge.mjs`.
 */

import { parseArgs } from "node:util";
import { startStandIn } from "./stand-in.mjs";

const { values } = parseArgs({
  options: {
    port: { type: "string" },
    token: { type: "string" },
    "no-stdin": { type: "boolean" },
    "redis-port": { type: "string" },
    unchanged: { type: "boolean" },
    refusal: { type: "string" },
    bridge: { type: "boolean" },
  },
});
const port = Number(values.port ?? 0);
if (!Number.isInteger(port) || port < 0 || port > 65535) {
  console.error(`--port must be a number from 0 to 65535, not ${values.port}`);
  process.exit(2);
}

// A request to end that comes during the start takes effect once the start is complete.
const endRequested = new Promise((resolve) => {
  process.once("SIGTERM", resolve);
  process.once("SIGINT", resolve);
  if (!values["no-stdin"]) process.stdin.on("end", resolve).on("error", resolve).resume();
});

const redisPort = values["redis-port"];
const standIn = await startStandIn({
  port,
  token: values.token,
  redis: redisPort ? { host: "127.0.0.1", port: Number(redisPort) } : undefined,
  scripts: { unchanged: values.unchanged, refusal: values.refusal },
  bridge: values.bridge,
});
process.stdout.on("error", () => {}); // the reader has ended, and then stdin ends too
console.log(JSON.stringify({ url: standIn.url, token: standIn.token, redisPort: standIn.redis.port, pid: process.pid }));

await endRequested;
await standIn.stop();
process.exit(0);

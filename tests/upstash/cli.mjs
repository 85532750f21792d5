#!/usr/bin/env node
/**
 * The stand-in, with a Redis of its own, as a process for other programs.
 *
 *     node tests/upstash/cli.mjs [--port N] [--token T] [--no-stdin] [--redis-port N] [--unchanged] [--refusal ERROR] [--bridge]
 *
 * Prints one line of JSON, `{"url","token","redisPort","pid"}`, when it can be used. Ends, and its Redis with it, when
 * its stdin ends (so that it cannot outlive a program that holds the other end, however that dies), on SIGTERM, on SIGINT.
 * `--no-stdin`: on the signals alone, for a shell that gives it `/dev/null`. `--redis-port`: over a Redis that runs on this
 * machine. `--unchanged` and `--refusal`: as in `scripts.mjs`. `--bridge`: as in `bridge.mjs`.
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
  console.error(`--port: not a port: ${values.port}`);
  process.exit(2);
}

// Asked to end while it starts: remembered, and done once there is something to end.
const asked = new Promise((resolve) => {
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
process.stdout.on("error", () => {}); // the reader has gone; its end of stdin says the same
console.log(JSON.stringify({ url: standIn.url, token: standIn.token, redisPort: standIn.redis.port, pid: process.pid }));

await asked;
await standIn.stop();
process.exit(0);

/** Where figures come from: the machine, the versions of programs and packages, and the commit. */

import { readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { output, root } from "../scripts/command.mjs";

/** @returns {Record<string, string>} */
export function provenance() {
  const cpus = os.cpus();
  const changed = output("git", ["status", "--porcelain", "--", ".", ":!docs", ":!README.md"]) !== "";
  return {
    date: new Date().toISOString().slice(0, 10),
    commit: `${output("git", ["rev-parse", "--short", "HEAD"]) ?? "unknown"}${changed ? ", with changes" : ""}`,
    machine: `${cpus[0]?.model ?? "unknown CPU"}, ${cpus.length} cores, ${(os.totalmem() / 2 ** 30).toFixed(0)} GiB`,
    kernel: `${os.type()} ${os.release()}`,
    node: process.versions.node,
    workerd: installed("workerd"),
    redis: word(output("redis-server", ["--version"]), /v=(\S+)/),
    rustc: word(output("rustc", ["--version"]), /rustc (\S+)/),
    "worker (crate)": locked("worker"),
    "wasm-bindgen": locked("wasm-bindgen"),
    "@upstash/ratelimit": installed("@upstash/ratelimit"),
    "@upstash/redis": installed("@upstash/redis"),
    hono: installed("hono"),
    "hono-rate-limiter": installed("hono-rate-limiter"),
  };
}

const word = (text, pattern) => pattern.exec(text ?? "")?.[1] ?? "unknown";

function installed(name) {
  return JSON.parse(readFileSync(path.join(root, "package-lock.json"), "utf8")).packages[`node_modules/${name}`].version;
}

function locked(name) {
  return word(readFileSync(path.join(root, "Cargo.lock"), "utf8"), new RegExp(`name = "${name}"\nversion = "([^"]+)"`));
}

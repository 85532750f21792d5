/** Starts both Workers on this machine. Their secrets are in `.dev.vars`. If neither has this file, both get one with a new secret. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, writeFileSync } from "node:fs";

const { PORT = "8787" } = process.env;
const WORKERS = ["app", "limiter"];

const files = WORKERS.map((name) => `${name}/.dev.vars`);
if (!files.some(existsSync)) {
  const secrets = `CHECK_TOKEN=${randomBytes(24).toString("base64url")}\n`;
  for (const file of files) writeFileSync(file, secrets);
}

const configs = WORKERS.flatMap((name) => ["--config", `${name}/wrangler.toml`]);
const child = spawn("wrangler", ["dev", ...configs, "--port", PORT], { stdio: "inherit" });
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));

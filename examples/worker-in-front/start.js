/** Starts the origin and the Worker in front of it on this machine. Both get a secret that is made for this run. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";

const { PORT = "8787", ORIGIN_PORT = "8788" } = process.env;
const secret = randomBytes(24).toString("base64url");

const origin = spawn(process.execPath, ["origin/serve.js"], { stdio: "inherit", env: { ...process.env, PORT: ORIGIN_PORT, ORIGIN_SECRET: secret } });
const worker = spawn(
  "wrangler",
  ["dev", "--port", PORT, "--var", `ORIGIN_URL:http://127.0.0.1:${ORIGIN_PORT}`, "--var", `ORIGIN_SECRET:${secret}`],
  { stdio: "inherit" },
);

const stop = () => {
  origin.kill();
  worker.kill();
};
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, stop);
for (const child of [origin, worker]) child.on("exit", stop);

/** Runs the commands of the guides as an operator types them: all blocks of a page marked `sh`, in one shell, from top to bottom. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { root } from "../../scripts/command.mjs";
import { ADMIN_TOKEN, BYPASS_TOKEN, blocked, good, has } from "../harness/control.mjs";
import { startShared } from "../harness/limited.mjs";
import { temporary } from "./files.mjs";

const METRICS_TOKEN = "a-metrics-token-of-this-test";
const FUNCTION = /^limiter\(\) \{.*$/m;

describe("commands in the guides", () => {
  let shared, limiter;
  before(async () => {
    shared = await startShared();
    limiter = await shared.warm({ ADMIN_TOKEN, METRICS_TOKEN, RATE_LIMIT_BYPASS_TOKEN: BYPASS_TOKEN, RATE_LIMIT_METRICS: true });
  });
  after(() => shared?.stop());

  const guide = (name) => readFileSync(path.join(root, "docs", name), "utf8");
  /** The code blocks of a page with this language mark, without their indentation. */
  const blocks = (text, mark = "sh") => {
    const fences = [...text.matchAll(/^( *)```(.*)\n([^]*?)^ *```$/gm)].filter(([, , found]) => found === mark);
    return fences.map(([, indent, , block]) => block.replaceAll(new RegExp(`^${indent}`, "gm"), ""));
  };

  /** Runs a script in a new folder with a copy of ops/. Returns what it printed, and the folder. */
  async function run(t, script) {
    const folder = temporary(t);
    cpSync(path.join(root, "ops"), path.join(folder, "ops"), { recursive: true });
    const { host, port } = shared.standIn.redis;
    const env = { ...process.env, LIMITER: limiter.url, ADMIN_TOKEN, BYPASS_TOKEN, METRICS_TOKEN, REDIS_URL: `redis://${host}:${port}` };
    const child = spawn("bash", ["-euxo", "pipefail", "-c", script], { cwd: folder, env, stdio: ["ignore", "pipe", "pipe"] });
    const printed = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"]) child[name].on("data", (data) => (printed[name] += data));
    const [code] = await once(child, "close");
    assert.equal(code, 0, `${printed.stdout}\n${printed.stderr}`);
    return { ...printed, folder };
  }

  it("all commands of docs/operating.md succeed", async (t) => {
    const text = guide("operating.md");
    assert.ok(blocks(text).length >= 10);
    const { stdout } = await run(t, blocks(text).join("\n"));
    assert.match(stdout, /"status":"ok"/);
    assert.equal(stdout.match(/^200$/gm).length, 2, "the calls with the bypass token and of the metrics did not both print 200");
    assert.match(stdout, /"target":"198.51.100.0\/24"/);
    // curl does not get the token as an argument, which the list of processes would show.
    assert.doesNotMatch(text.match(FUNCTION)[0], /curl.*ADMIN_TOKEN/);
    has(await good(limiter, "GET", blocked("203.0.113.9")), { blocked: false });
    has(await good(limiter, "GET", blocked("2001:db8:0:7::1")), { blocked: true, reason: "password guessing, ticket 4711" });
  });

  it("all commands of docs/redis.md succeed, and restore the blocks that they saved", async (t) => {
    for (const [target, json] of [["192.0.2.77", { seconds: 5000, reason: "for a time" }], ["192.0.2.78", { reason: '"quoted" \\ and %s' }], ["198.51.101.0/24", {}]]) {
      await good(limiter, "PUT", blocked(target), { json });
    }
    const text = guide("redis.md");
    const [saving, restoring] = blocks(text).filter((block) => block.includes("blocks.jsonl"));
    const rest = blocks(text).filter((block) => block !== saving && block !== restoring);
    const deleteBlocks = 'redis-cli -u "$REDIS_URL" --scan --pattern "*blocked*" | xargs -d "\\n" redis-cli -u "$REDIS_URL" DEL';
    const { folder, stdout } = await run(t, [guide("operating.md").match(FUNCTION)[0], saving, deleteBlocks, restoring, ...rest].join("\n"));
    has(await good(limiter, "GET", blocked("192.0.2.77")), { blocked: true, reason: "for a time" });
    has(await good(limiter, "GET", blocked("192.0.2.78")), { blocked: true, until: null, reason: '"quoted" \\ and %s' });
    has(await good(limiter, "GET", blocked("198.51.101.0/24")), { blocked: true, until: null });
    assert.ok(existsSync(path.join(folder, "backup.rdb")));
    assert.match(stdout, /RDB looks OK/);
  });

  it("commands that no test runs are only those that need other accounts or machines", () => {
    for (const name of ["operating.md", "redis.md"]) {
      for (const line of blocks(guide(name), "").flatMap((block) => block.split("\n")).map((line) => line.trim()).filter(Boolean)) {
        assert.match(line, /^(export LIMITER=|read -rs|npx wrangler|openssl rand|printf %s|chmod|docker compose|ACL SETUSER|\+)/, name);
      }
    }
  });
});

/**
 * Variables as the platform hands them over, and the commands that a user runs.
 */

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { ask } from "./harness/limited.mjs";
import { send } from "./harness/request.mjs";
import { within } from "./harness/within.mjs";
import { startWorkerd } from "./harness/workerd.mjs";

const root = fileURLToPath(new URL("..", import.meta.url));
const script = (name) => join(root, "scripts", name);

describe("tables", () => {
  const routes = [{ path: "/login", policies: ["auth"] }];
  for (const [form, given] of [["objects", (table) => table], ["JSON text", JSON.stringify]]) {
    it(`are taken as ${form}`, async () => {
      const limiter = await startWorkerd({
        vars: { RATE_LIMIT_AUTH: "1,3600", RATE_LIMIT_ROUTES: given(routes), RATE_LIMIT_POLICIES: given({ auth: { key: "global" } }) },
      });
      try {
        assert.equal(await ask(limiter, "192.0.2.1", "/login"), 200);
        assert.equal(await ask(limiter, "192.0.2.2", "/login"), 429, "one quota for everybody");
        assert.equal(await ask(limiter, "192.0.2.2", "/"), 200);
      } finally {
        await limiter.stop();
      }
    });
  }
});

describe("npm run check-config", () => {
  let dir;
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "edge-limiter-test-"));
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  /** Checks a configuration of these vars (TOML). */
  async function check(vars) {
    const file = join(dir, "wrangler.toml");
    writeFileSync(file, `name = "x"\nmain = "index.js"\ncompatibility_date = "2026-04-01"\n[vars]\n${vars}\n`);
    return new Promise((resolve) => {
      execFile(process.execPath, [script("check-config.mjs"), "--config", file], { cwd: root }, (error, stdout, stderr) =>
        resolve({ code: error?.code ?? 0, output: stdout + stderr }),
      );
    });
  }

  it("prints the policies in force", async () => {
    const { code, output } = await check('RATE_LIMIT_AUTH = "7,60,30"');
    assert.equal(code, 0, output);
    assert.match(output, /^policy +limit +window +block +algorithm +key +mode$/m);
    assert.match(output, /^mfa +5 +60 s +900 s +sliding-window +ip +enforce$/m);
    assert.match(output, /^auth +7 +60 s +30 s +sliding-window +ip +enforce$/m);
  });

  it("names every bad variable, never a value, and fails", async () => {
    const { code, output } = await check(
      ['RATE_LIMIT_AUTH = "pLaNtEd"', 'RATE_LIMIT_HEADERS = "pLaNtEd"', 'ORIGIN_URL = "pLaNtEd"',
        'RATE_LIMIT_ROUTES = [{ path = "pLaNtEd", policies = ["pLaNtEd"] }]'].join("\n"),
    );
    assert.equal(code, 1, output);
    for (const name of ["RATE_LIMIT_AUTH", "RATE_LIMIT_HEADERS", "ORIGIN_URL", "RATE_LIMIT_ROUTES[0].path", "RATE_LIMIT_ROUTES[0].policies[0]"]) {
      assert.ok(output.includes(`error: ${name}: `), `${name} in ${output}`);
    }
    assert.doesNotMatch(output, /planted/i);
  });
});

describe("the commands that serve", () => {
  /** Starts `scripts/start.mjs` with these arguments and waits until it answers. */
  async function serve(args) {
    const port = await freePort();
    const child = spawn(process.execPath, [script("start.mjs"), "--port", String(port), ...args], {
      cwd: root, stdio: ["ignore", "pipe", "pipe"],
    });
    let printed = "";
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (printed += chunk));
    const gone = once(child, "exit");
    const url = `http://127.0.0.1:${port}`;
    const ready = async () => {
      while (child.exitCode === null) {
        try {
          return await send(url, { path: "/_limiter/health" });
        } catch {
          await once(child.stdout, "data");
        }
      }
      throw new Error(`it ended:\n${printed}`);
    };
    const health = (await within(ready(), "the first answer", 120_000)).json();
    return { url, health, child, gone, printed: () => printed };
  }

  async function freePort() {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address();
    server.close();
    await once(server, "close");
    return port;
  }

  /** This process's children, theirs, and so on (Linux). */
  function descendants(pid) {
    const parents = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((name) => {
      try {
        return [[Number(name), Number(/\) . (\d+)/.exec(readFileSync(`/proc/${name}/stat`, "utf8"))[1])]];
      } catch {
        return []; // ended meanwhile
      }
    });
    const beneath = (of) => parents.filter(([, parent]) => parent === of).flatMap(([child]) => [child, ...beneath(child)]);
    return beneath(pid);
  }

  const lives = (pid) => {
    try {
      return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
    } catch {
      return false;
    }
  };

  /** Ends it as Ctrl-C does, and checks that nothing of it survives. */
  async function end({ child, gone }) {
    const pids = descendants(child.pid);
    assert.ok(pids.length > 0, "wrangler runs beneath it");
    child.kill("SIGINT");
    await within(gone, "its end", 30_000);
    const survivors = pids.filter(lives);
    assert.deepEqual(survivors, []);
  }

  for (const [command, args, store] of [["npm start", [], "memory"], ["npm run dev:redis", ["--redis"], "upstash"]]) {
    it(`${command} serves, limits, and leaves nothing behind`, { skip: process.platform !== "linux" && "reads /proc" }, async () => {
      const served = await serve(args);
      try {
        assert.deepEqual({ status: served.health.status, store: served.health.store }, { status: "ok", store });
        const first = await send(served.url, { path: "/api/auth/login" });
        assert.equal(first.status, 200);
        assert.equal(first.json().admitted, true);
        assert.equal(first.headers["x-ratelimit-limit"], "30");
        assert.equal(first.headers["x-ratelimit-remaining"], "29");
        const statuses = [];
        for (let i = 0; i < 30; i++) statuses.push((await send(served.url, { path: "/api/auth/login" })).status);
        assert.deepEqual(statuses, [...Array(29).fill(200), 429]);
      } finally {
        await end(served);
      }
    });
  }
});

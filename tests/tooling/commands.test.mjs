/**
 * The commands of package.json, as a user types them: what they serve or print, and how they end. They leave no process
 * behind.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { EventEmitter, once } from "node:events";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { environment } from "../../scripts/command.mjs";
import { send } from "../harness/request.mjs";
import { within } from "../harness/within.mjs";
import { freePort } from "../upstash/free-port.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** Everything is built already, but another build may hold cargo's lock. */
const STARTING_MS = 240_000;
const ENDING_MS = 30_000;

const linux = { skip: process.platform !== "linux" && "it reads /proc" };

describe("npm start", linux, () => {
  it("serves from memory, with headers and a 429 past the limit, and SIGINT ends all its processes", async (t) => {
    const port = await freePort();
    const command = run(t, process.execPath, ["scripts/start.mjs", "--port", String(port)]);
    await command.printed(/Ready on/);
    const url = `http://localhost:${port}`;

    const admitted = await send(url);
    assert.equal(admitted.status, 200);
    const { admitted: isAdmitted, caller, policies } = admitted.json();
    assert.deepEqual([isAdmitted, policies.sort()], [true, ["general", "ip"]]);
    assert.notEqual(caller, "unknown");
    assert.deepEqual(
      ["limit", "remaining", "type"].map((name) => admitted.headers[`x-ratelimit-${name}`]),
      ["120", "119", "general"],
    );
    assert.ok(Number(admitted.headers["x-ratelimit-reset"]) > Date.now() / 1000);

    // The rest of the 120 requests, within the same minute.
    const statuses = [];
    while (statuses.at(-1) !== 429 && statuses.length < 200) statuses.push((await send(url)).status);
    assert.equal(statuses.length, 120, `${statuses.length} more requests were sent, the last was answered ${statuses.at(-1)}`);
    assert.deepEqual([...new Set(statuses.slice(0, -1))], [200]);
    const denied = await send(url);
    assert.equal(denied.status, 429);
    assert.ok(Number(denied.headers["retry-after"]) > 0);
    assert.equal(denied.json().type, "general");

    const { status, store } = (await send(url, { path: "/_limiter/health" })).json();
    assert.deepEqual([status, store], ["ok", "memory"]);
    await assertEnds(command, () => command.child.kill("SIGINT"));
    assert.equal(command.child.exitCode, 0, command.output());
  });

  it("serves the page for operators under wrangler", async (t) => {
    const port = await freePort();
    const command = run(t, process.execPath, ["scripts/start.mjs", "--port", String(port), "--var", "ADMIN_TOKEN:a-token-of-this-test-alone"]);
    await command.printed(/Ready on/);
    for (const [file, word] of [["", "<!doctype html>"], ["page.js", "sessionStorage"], ["page.css", "--accent"]]) {
      const answer = await send(`http://localhost:${port}`, { path: `/_limiter/${file}` });
      assert.equal(answer.status, 200, answer.text().slice(0, 200));
      assert.ok(answer.text().includes(word), file);
    }
    await assertEnds(command, () => command.child.kill("SIGINT"));
  });

  it("opens the control plane with a token made for the run, and `npm run try` uses that token", async (t) => {
    const port = await freePort();
    const url = `http://localhost:${port}`;
    const command = run(t, process.execPath, ["scripts/start.mjs", "--port", String(port)]);
    await command.printed(/npm run try/);
    assert.ok(command.output().includes(`${url}/_limiter/\n`), command.output());
    const [, token] = /^> ADMIN_TOKEN.*: (\S+)$/m.exec(command.output());
    assert.match(token, /^[\w-]{22,}$/);
    assert.equal((await listBlocks(url, token)).status, 200);
    assert.equal((await listBlocks(url, `${token.slice(1)}x`)).status, 401);
    const left = join(root, ".wrangler", `edge-limiter-token-${port}`);
    assert.deepEqual([readFileSync(left, "utf8"), (statSync(left).mode & 0o777).toString(8)], [token, "600"]);

    const scene = run(t, "npm", ["run", "--silent", "try", "--", url]);
    await within(scene.closed, "the end of npm run try", STARTING_MS);
    const played = scene.output();
    assert.equal(scene.child.exitCode, 0, played);
    assert.doesNotMatch(played, new RegExp(token));
    const steps = played.split(/^> (?=\d\.)/m).slice(1);
    const statuses = steps.map((step) => [...step.matchAll(/^ {2}\w+ \/\S*(?: \{.*\})?: (\d{3})/gm)].map(([, status]) => Number(status)));
    assert.deepEqual(statuses, [[200, 200, 200], [429], [429, 200], [200, 429], [200, 200]], played);
    assert.match(steps[1], /^ {2}120 admitted$/m);
    assert.match(steps[2], /^ {2}30 admitted$/m);
    for (const step of steps) assert.match(step, /^ {2}On the page, \w/m);
    // The scene has several callers. Only the brute-force attacker meets the policy `auth`.
    const { policies } = (await listBlocks(url, token)).json();
    assert.deepEqual(policies.map(({ policy, caller }) => [policy, caller.startsWith("203.0.113.")]), [["auth", true]]);

    await assertEnds(command, () => command.child.kill("SIGINT"));
    assert.equal(existsSync(left), false);
  });

  it("leaves the user's own ADMIN_TOKEN in force, and neither prints nor stores a token", async (t) => {
    const own = "a-token-of-the-users-own";
    const dir = mkdtempSync(join(tmpdir(), "edge-limiter-start-"));
    t.after(() => rmSync(dir, { recursive: true, force: true }));
    const config = join(dir, "wrangler.toml");
    writeFileSync(config, `name = "x"\nmain = ${JSON.stringify(join(root, "build", "index.js"))}\ncompatibility_date = "2026-04-01"\n`);
    writeFileSync(join(dir, ".dev.vars"), `ADMIN_TOKEN="${own}"\n`);
    for (const [args, env] of [[["--config", config], {}], [[], { ADMIN_TOKEN: own }]]) {
      const port = await freePort();
      const command = run(t, process.execPath, ["scripts/start.mjs", "--port", String(port), ...args], env);
      await command.printed(/Ready on/);
      assert.equal((await listBlocks(`http://localhost:${port}`, own)).status, 200);
      assert.match(command.output(), /^> ADMIN_TOKEN, which opens it: your own$/m);
      assert.ok(!command.output().includes(own), "the user's token is printed");
      assert.equal(existsSync(join(root, ".wrangler", `edge-limiter-token-${port}`)), false);
      await assertEnds(command, () => command.child.kill("SIGINT"));
    }
  });

  it("ends when npm ends, although npm passes on no signal", async (t) => {
    const command = run(t, "npm", ["start", "--", "--port", String(await freePort())]);
    await command.printed(/Ready on/);
    await assertEnds(command, () => command.child.kill("SIGTERM"));
  });

  it("reports that the port is in use, and ends", async (t) => {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    t.after(() => server.close());
    const command = run(t, process.execPath, ["scripts/start.mjs", "--port", String(server.address().port), "--ip", "127.0.0.1"]);
    await within(command.closed, "the command's end", STARTING_MS);
    assert.notEqual(command.child.exitCode, 0);
    assert.match(command.output(), /in use/i);
  });
});

describe("npm run dev:redis", linux, () => {
  it("serves with its counters in Redis, and Ctrl-C ends all its processes", async (t) => {
    const port = await freePort();
    const command = run(t, "npm", ["run", "dev:redis", "--", "--port", String(port)]);
    await command.printed(/Ready on/);
    const url = `http://localhost:${port}`;
    const admitted = await send(url);
    assert.deepEqual([admitted.status, admitted.headers["x-ratelimit-remaining"]], [200, "119"]);
    const { status, store } = (await send(url, { path: "/_limiter/health" })).json();
    assert.deepEqual([status, store], ["ok", "upstash"]);

    // The counters are in the Redis that the command names.
    const [, redisPort] = /redis-cli -p (\d+)/.exec(command.output());
    const { createClient } = await import("redis");
    const redis = createClient({ socket: { port: Number(redisPort), reconnectStrategy: false } });
    redis.on("error", () => {});
    await redis.connect();
    const { caller } = admitted.json();
    assert.deepEqual((await redis.keys("*")).sort(), [`vibewell:ratelimit:general:${caller}`, `vibewell:ratelimit:ip:${caller}`]);
    redis.destroy();

    // A terminal sends the signal to the whole foreground process group.
    await assertEnds(command, () => process.kill(-command.child.pid, "SIGINT"));
  });
});

describe("npm run try", () => {
  for (const [what, url, message, code] of [
    ["where no limiter runs", async () => `http://localhost:${await freePort()}`, /no token/, 1],
    ["for another machine", () => "https://limiter.example", /usage:/, 2],
  ]) {
    it(`fails ${what}`, async (t) => {
      const command = run(t, process.execPath, ["scripts/try.mjs", await url()], { ADMIN_TOKEN: "" });
      await within(command.closed, "the command's end", ENDING_MS);
      assert.equal(command.child.exitCode, code);
      assert.match(command.output(), message);
    });
  }
});

describe("wrangler deploy", () => {
  it("uploads the page's files as a separate module", async (t) => {
    const dir = mkdtempSync(join(tmpdir(), "edge-limiter-upload-"));
    t.after(() => rmSync(dir, { recursive: true, force: true }));
    const wrangler = join(root, "node_modules", "wrangler", "bin", "wrangler.js");
    const command = run(t, process.execPath, [wrangler, "deploy", "--dry-run", "--outdir", dir], environment);
    await within(command.closed, "the command's end", STARTING_MS);
    assert.equal(command.child.exitCode, 0, command.output());
    const uploaded = readdirSync(dir).filter((file) => file !== "README.md").sort();
    assert.deepEqual(uploaded, ["index.js", "index_bg.wasm", "page_files.js"]);
    const read = (file) => readFileSync(join(dir, file), "utf8");
    assert.match(read("page_files.js"), /<!doctype html>/i);
    assert.doesNotMatch(read("index.js"), /<!doctype html>/i);
  });
});

describe("npm run check-config", () => {
  const dir = mkdtempSync(join(tmpdir(), "edge-limiter-config-"));
  after(() => rmSync(dir, { recursive: true, force: true }));

  const check = (t, ...args) => checkWith(t, {}, ...args);

  async function checkWith(t, variables, ...args) {
    const command = run(t, "npm", ["run", "--silent", "check-config", "--", ...args], variables);
    await within(command.closed, "the command's end", STARTING_MS);
    return { code: command.child.exitCode, output: command.output() };
  }

  function toml(vars) {
    const file = join(dir, "wrangler.toml");
    writeFileSync(file, `name = "x"\nmain = "index.js"\ncompatibility_date = "2026-04-01"\n${vars}\n`);
    return file;
  }

  it("prints the policies of the shipped configuration, and ends with 0", async (t) => {
    const { code, output } = await check(t);
    assert.equal(code, 0, output);
    assert.doesNotMatch(output, /error|warning/i);
    const table = output.split("\n").filter(Boolean).map((line) => line.trim().split(/\s{2,}/));
    const from = table.findIndex(([first]) => first === "policy");
    assert.deepEqual(table[from], ["policy", "limit", "window", "block", "algorithm", "key", "mode", "on store failure", "lease"]);
    assert.deepEqual(
      table.slice(from + 1).map((row) => row.slice(0, 4).join(" ")),
      ["admin 300 60 s 300 s", "auth 30 60 s 600 s", "financial 20 60 s 900 s", "general 120 60 s -", "ip 1000 3600 s -", "mfa 5 60 s 900 s", "sensitive 10 60 s 900 s", "preflight 600 60 s -"],
    );
  });

  it("shows options, warns of a probable mistake, and ends with 0", async (t) => {
    const { code, output } = await check(t, "--config", toml(`[vars]
RATE_LIMIT_IP = "off"
RATE_LIMIT_BULK = "10,60"
RATE_LIMIT_TYPO = "10,60"
RATE_LIMIT_POLICIES = { bulk = { algorithm = "token-bucket", burst = 40, key = "header:X-Api-Key", on_store_failure = "deny", lease = 8 }, general = { mode = "shadow", algorithm = "fixed-window" } }
RATE_LIMIT_ROUTES = [{ path = "/bulk", policies = ["bulk"] }]`));
    assert.equal(code, 0, output);
    assert.match(output, /^bulk +10 \(burst 40\) +60 s +- +token-bucket +header:x-api-key \+ ip +enforce +deny +8$/m);
    assert.match(output, /^general +120 +60 s +- +fixed-window +ip +shadow +memory +-$/m);
    assert.doesNotMatch(output, /^ip /m);
    assert.match(output, /^warning: RATE_LIMIT_TYPO: /m);
    assert.doesNotMatch(output, /^error/m);
  });

  it("names every bad variable without its value, and ends with 1", async (t) => {
    const file = toml(`[vars]
RATE_LIMIT_AUTH = "planted-1"
RATE_LIMIT_MFA = "5,60,planted-2"
RATE_LIMIT_ENABLED = "planted-3"
RATE_LIMIT_HEADERS = "planted-4"
RATE_LIMIT_BLOCKED = "1,1"
RATE_LIMIT_POLICIES = { auth = { algorithm = "planted-5", burst = "planted-6", key = "planted 7", mode = "planted-8" }, planted-9 = { mode = "shadow" } }
RATE_LIMIT_ROUTES = [{ path = "planted-10", policies = ["auth"] }, { path = "/a", policies = ["planted-11"], cost = "planted-12", methods = "planted-13" }, "planted-14"]
ORIGIN_URL = "planted-15"
CLIENT_IP_HEADER = "X-Forwarded-For"
IPV6_PREFIX = "planted-16"
REDIS_TIMEOUT = -1
REDIS_KEY_PREFIX = "planted 17"
REDIS_ENABLED = "planted-18"
DEFAULT_RATE_LIMIT_MAX = 0
DEFAULT_RATE_LIMIT_WINDOW = "planted-19"
UPSTASH_REDIS_REST_URL = "planted-20"`);
    // Secrets in the file where a developer keeps them.
    writeFileSync(join(dir, ".dev.vars"), 'UPSTASH_REDIS_REST_TOKEN="planted-21"\nADMIN_TOKEN="planted 22"\nORIGIN_SECRET="planted-23-good-and-long"\n');
    const { code, output } = await check(t, "--config", file);
    rmSync(join(dir, ".dev.vars"));
    assert.equal(code, 1, output);
    const errors = [...output.matchAll(/^error: (\S+?): \S/gm)].map(([, variable]) => variable);
    for (const variable of [
      "RATE_LIMIT_AUTH", "RATE_LIMIT_MFA", "RATE_LIMIT_ENABLED", "RATE_LIMIT_HEADERS", "RATE_LIMIT_BLOCKED", "RATE_LIMIT_POLICIES",
      ...["algorithm", "key", "mode"].map((option) => `RATE_LIMIT_POLICIES.auth.${option}`),
      "RATE_LIMIT_ROUTES[0].path", "RATE_LIMIT_ROUTES[1].policies[0]", "RATE_LIMIT_ROUTES[1].cost", "RATE_LIMIT_ROUTES[1].methods", "RATE_LIMIT_ROUTES[2]",
      "ORIGIN_URL", "CLIENT_IP_HEADER", "IPV6_PREFIX", "REDIS_TIMEOUT", "REDIS_KEY_PREFIX", "REDIS_ENABLED",
      "DEFAULT_RATE_LIMIT_MAX", "DEFAULT_RATE_LIMIT_WINDOW", "UPSTASH_REDIS_REST_URL", "ADMIN_TOKEN",
    ]) {
      assert.ok(errors.includes(variable), `${variable} is not among the errors: ${errors}`);
    }
    // Both the option `burst` and its value are wrong, and either may be named.
    assert.ok(errors.some((variable) => variable.startsWith("RATE_LIMIT_POLICIES.auth.burst")), `burst is not among the errors: ${errors}`);
    assert.doesNotMatch(output, /planted/i);
    assert.doesNotMatch(output, /^policy /m);
  });

  it("checks Redis over TCP for the given host, and says where counts are kept", async (t) => {
    const sentinel = { REDIS_SENTINEL: "true", REDIS_SENTINEL_NODES: "a.example,b.example" };
    const whole = { ...sentinel, REDIS_SENTINEL_NAME: "mymaster" };
    for (const [host, variables, errors, place] of [
      ["node", { REDIS_URL: "redis://:planted-1@localhost/3" }, [], "in Redis, over TCP"],
      ["node", { REDIS_CLUSTER: "true", REDIS_CLUSTER_NODES: "a", REDIS_TLS: "true" }, [], "in a Redis Cluster, over TLS"],
      ["node", whole, [], "in Redis behind Sentinel, over TCP"],
      ["node", sentinel, ["REDIS_SENTINEL_NAME"]],
      ["node", { REDIS_URL: "redis://localhost", REDIS_TLS: "true" }, ["REDIS_TLS"]],
      ["node", { REDIS_CLUSTER: "true", REDIS_URL: "redis://localhost/1" }, ["REDIS_DATABASE"]],
      ["edge", { REDIS_URL: "redis://:planted-2@localhost" }, ["REDIS_URL"]],
    ]) {
      const { code, output } = await checkWith(t, variables, "--host", host);
      const named = [...output.matchAll(/^error: (\S+?): \S/gm)].map(([, variable]) => variable);
      assert.deepEqual([named, code], [errors, errors.length > 0 ? 1 : 0], output);
      if (place) assert.match(output, new RegExp(`^counts: ${place}$`, "m"));
      assert.doesNotMatch(output, /planted/);
    }
    const workers = await check(t, "--config", toml(`[vars]\n${Object.entries(whole).map(([name, value]) => `${name} = "${value}"`).join("\n")}`));
    assert.equal(workers.code, 1, workers.output);
    assert.match(workers.output, /^error: REDIS_SENTINEL: .*Workers/m);
    const unknown = await check(t, "--host", "lambda");
    assert.match(unknown.output, /workers, edge, node/);
    assert.equal(unknown.code, 2);
  });

  it("reports a file that is not TOML or does not exist, without its text", async (t) => {
    const broken = await check(t, "--config", toml('[vars]\nADMIN_TOKEN = "planted-1\nORIGIN_SECRET = "planted-2"'));
    assert.notEqual(broken.code, 0);
    assert.match(broken.output, /TOML/);
    assert.doesNotMatch(broken.output, /planted/);
    const missing = await check(t, "--config", join(dir, "no-such.toml"));
    assert.notEqual(missing.code, 0);
    assert.match(missing.output, /no-such\.toml/);
  });

  it("refuses an unknown option, and prints the usage", async (t) => {
    const { code, output } = await check(t, "--no-such");
    assert.notEqual(code, 0);
    assert.match(output, /usage:/);
  });
});

/** Calls the control plane with a token. */
const listBlocks = (url, token) => send(url, { path: "/_limiter/blocked", headers: { Authorization: `Bearer ${token}` } });

/**
 * Runs a command in the repository's root, in its own process group, as a shell does. All its processes end with the test.
 */
function run(t, program, args, env = {}) {
  const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"], detached: true, env: { ...process.env, FORCE_COLOR: "0", NO_COLOR: "1", ...env } });
  const chunks = [];
  const outputEvents = new EventEmitter();
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      chunks.push(chunk);
      outputEvents.emit("data");
    });
  }
  const closed = once(child, "close");
  const output = () => Buffer.concat(chunks).toString("utf8");
  const family = [];
  t.after(() => {
    // Processes that were found earlier may have lost their parent since.
    const known = [...family, identity(child.pid), ...descendants(child.pid)];
    for (const one of known) if (one && identity(one.pid)?.started === one.started) process.kill(one.pid, "SIGKILL");
  });
  return {
    child,
    closed,
    family,
    output,
    /** Waits until the output matches. Fails at once if the command ends before. */
    async printed(pattern) {
      const found = new Promise((resolve, reject) => {
        const look = () => pattern.test(output()) && resolve();
        look();
        outputEvents.on("data", look);
        closed.then(() => reject(new Error(`the command ended before it printed ${pattern}:\n${output()}`)));
      });
      await within(found, `${pattern}`, STARTING_MS);
    },
  };
}

/** Asserts that `end` ends the command and all its descendants. */
async function assertEnds(command, end) {
  const { family } = command;
  family.push(identity(command.child.pid), ...descendants(command.child.pid));
  // workerd must be among them, or this would prove nothing.
  assert.ok(family.some(({ name }) => name.includes("workerd")), `workerd is not among the processes: ${family.map(({ name }) => name)}`);
  end();
  await within(command.closed, "the command's end", ENDING_MS);
  const gone = async () => {
    for (;;) {
      const left = family.filter(({ pid, started }) => identity(pid)?.started === started);
      if (left.length === 0) return;
      await new Promise((resolve) => setTimeout(resolve, 50)); // these are not children of this process, so no event reports their end
    }
  };
  await within(gone(), `the end of ${family.map(({ pid, name }) => `${pid} ${name}`).join(", ")}`, ENDING_MS);
}

/** The process with this ID. `undefined` if there is none, or only a zombie. */
function identity(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const name = stat.slice(stat.indexOf("(") + 1, stat.lastIndexOf(")"));
    const [state, parent, ...rest] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return state === "Z" ? undefined : { pid, name, parent: Number(parent), started: rest[17] };
  } catch {
    return undefined;
  }
}

function descendants(pid) {
  if (process.platform !== "linux") return [];
  const all = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).map((name) => identity(Number(name))).filter(Boolean);
  const below = (parent) => all.filter((one) => one.parent === parent).flatMap((one) => [one, ...below(one.pid)]);
  return below(pid);
}

/** Every way in which the package can call Redis. The same suite runs over each, on a real Redis. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { Redis as UpstashRedis } from "@upstash/redis";
import * as ioredis from "ioredis";
import * as ioredis5 from "ioredis-5";
import * as redis from "redis";
import * as redis5 from "redis-5";
import { freePort } from "../upstash/free-port.mjs";
import { within } from "../harness/within.mjs";
import { startRedis } from "../upstash/redis-server.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";
import { overClient } from "../../npm/src/transport/replies.js";
import { createLimiter, rejects, variables } from "./harness.mjs";
import { bun, deno, project, run } from "./scratch.mjs";

const PASSWORD = "a password: with @ and /";
const LONG_TIMEOUT = { REDIS_TIMEOUT: "30000" };

let plain, secured, tlsPort, standIn, certificates;
before(async () => {
  certificates = certify();
  const { ca, key, certificate } = certificates;
  plain = await startRedis();
  tlsPort = await freePort();
  const files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no"];
  secured = await startRedis({ args: ["--tls-port", String(tlsPort), ...files] });
  const operator = await secured.client();
  await operator.sendCommand(["ACL", "SETUSER", "limiter", "on", `>${PASSWORD}`, "~*", "&*", "+@all"]);
  await operator.sendCommand(["ACL", "SETUSER", "default", "off"]);
  standIn = await startStandIn({ redis: plain });
});
after(async () => {
  await Promise.all([standIn?.stop(), plain?.stop(), secured?.stop()]);
  if (certificates) rmSync(certificates.folder, { recursive: true, force: true });
});

/** Creates a certificate for localhost, and the authority that signs it. */
function certify() {
  const folder = mkdtempSync(path.join(tmpdir(), "edge-limiter-tls-"));
  const file = (name) => path.join(folder, name);
  const openssl = (...args) => execFileSync("openssl", args, { cwd: folder, stdio: "pipe" });
  openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=edge-limiter test authority", "-keyout", "ca.key", "-out", "ca.pem");
  openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", "server.key", "-out", "server.csr");
  openssl("x509", "-req", "-days", "2", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy", "-out", "server.pem");
  return { folder, ca: file("ca.pem"), key: file("server.key"), certificate: file("server.pem"), pem: readFileSync(file("ca.pem"), "utf8") };
}

const onRest = () => ({ UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token });
const onTcp = (server = plain, path = "") => ({ REDIS_URL: `redis://127.0.0.1:${server.port}${path}` });
const onTls = () => ({ REDIS_URL: `rediss://limiter:${encodeURIComponent(PASSWORD)}@localhost:${tlsPort}`, REDIS_TLS_CA: certificates.pem });
const options = (server) => ({ host: "127.0.0.1", port: server.port });
const url = (server) => `redis://127.0.0.1:${server.port}`;

/** Functions that close what the tests have opened. */
const cleanups = [];
after(async () => {
  for (const cleanup of cleanups) await cleanup();
});

/** Connects a client of `redis`. */
async function connected(client) {
  client.on("error", () => {});
  await client.connect();
  cleanups.push(() => client.destroy?.());
  return client;
}

function ioredisClient({ Redis }, server, further) {
  const client = new Redis({ ...options(server), ...further });
  client.on("error", () => {});
  cleanups.push(() => client.disconnect());
  return client;
}

/** The ways in which a limiter can call Redis: variables or a client, by name. All reach `plain`, except TLS, which reaches `secured`. */
const CONNECTIONS = {
  "REST": () => ({ vars: onRest() }),
  "REDIS_URL": () => ({ vars: onTcp() }),
  "REDIS_URL with TLS, an own authority, a user and a password": () => ({ vars: onTls() }),
  "REDIS_URL with a database": () => ({ vars: onTcp(plain, "/3") }),
  "a client of ioredis 6": () => ({ redis: ioredisClient(ioredis, plain) }),
  "a client of ioredis 6 with RESP3 replies": () => ({ redis: ioredisClient(ioredis, plain, { protocol: 3, replyMapping: "resp3" }) }),
  "a client of ioredis 5": () => ({ redis: ioredisClient(ioredis5, plain, { lazyConnect: true }) }),
  "a client of redis 6": async () => ({ redis: await connected(redis.createClient({ url: url(plain) })) }),
  "a client of redis 6 with RESP2": async () => ({ redis: await connected(redis.createClient({ url: url(plain), RESP: 2 })) }),
  "a pool of redis 6": async () => ({ redis: await connected(redis.createClientPool({ url: url(plain) })) }),
  "a client of redis 5": async () => ({ redis: await connected(redis5.createClient({ url: url(plain) })) }),
  "a client of redis 5 that answers buffers": async () => {
    const client = await connected(redis5.createClient({ url: url(plain), RESP: 3 }));
    return { redis: client.withTypeMapping({ [redis5.RESP_TYPES.BLOB_STRING]: Buffer }) };
  },
  "a client of @upstash/redis": () => ({ redis: new UpstashRedis({ url: standIn.url, token: standIn.token }) }),
};

const limiterOf = async (connection, vars) => {
  const { vars: connectionVars, redis } = await CONNECTIONS[connection]();
  const limiter = createLimiter({ env: variables({ ...LONG_TIMEOUT, ...connectionVars, ...vars }), redis });
  cleanups.push(() => limiter.close());
  return limiter;
};

const request = () => new Request("http://127.0.0.1/");

for (const connection of Object.keys(CONNECTIONS)) {
  describe(`a limiter by ${connection}`, () => {
    it("a limit holds exactly for concurrent requests", async () => {
      const limiter = await limiterOf(connection, { RATE_LIMIT_GENERAL: "50,600", RATE_LIMIT_IP: "1000,3600" });
      const verdicts = await Promise.all(Array.from({ length: 120 }, () => limiter.limit(request(), { address: "192.0.2.1" })));
      assert.equal(verdicts.filter(({ allowed }) => allowed).length, 50);
      assert.ok(verdicts.every(({ degraded, status }) => !degraded && (status === 200 || status === 429)));
      // A denied request consumes nothing of any quota.
      assert.equal((await limiter.usage("ip", "192.0.2.1")).used, 50);
      const { status, store } = await limiter.health();
      assert.deepEqual([status, store], ["ok", connection === "REST" ? "upstash" : "redis"]);
      await limiter.reset("general", "192.0.2.1");
      assert.equal((await limiter.check("general", "192.0.2.1")).remaining, 49);
    });

    it("blocks, events and the application's own keys work", async () => {
      const limiter = await limiterOf(connection, { RATE_LIMIT_GENERAL: "5,60" });
      const own = limiter.redis;
      await own.blockIP("192.0.2.7", 600, "a reason: \"quoted\" ✓");
      await own.blockIP("198.51.100.0/24");
      const blocked = (await own.getBlockedIPs()).sort((one, other) => one.ip.localeCompare(other.ip));
      assert.deepEqual(blocked.map(({ ip, by, reason, until }) => [ip, by, reason, until === undefined]), [
        ["192.0.2.7", "operator", "a reason: \"quoted\" ✓", false], ["198.51.100.0/24", "operator", undefined, true],
      ]);
      assert.equal(await own.isIPBlocked("192.0.2.7"), true);
      const verdict = await limiter.limit(request(), { address: "192.0.2.7" });
      assert.deepEqual([verdict.allowed, verdict.blocked], [false, true]);
      assert.equal(await own.unblockIP("192.0.2.7"), true);
      assert.equal((await limiter.check("general", "192.0.2.7")).allowed, true);
      await own.logRateLimitEvent({ identifier: "192.0.2.9", policy: "general", method: "GET", path: "/x" });
      await within(until(async () => (await own.getRateLimitEvents()).some(({ kind }) => kind === "reported")), "the event to be recorded", 30_000);
      assert.deepEqual([await own.set("a", "0012"), await own.get("a"), await own.incr("n"), await own.get("n"), await own.get("no")], ["OK", "0012", 1, "1", null]);
      assert.equal(await own.expire("a", 100), true);
      assert.equal(await own.del("a", "n"), 2);
      assert.equal(await own.set("json", '{"a":1}'), "OK");
      assert.equal(await own.get("json"), '{"a":1}');
    });
  });
}

async function until(holds) {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 100));
}

describe("two limiters", () => {
  it("limiters with different connections share a limit exactly", async () => {
    const shared = { REDIS_KEY_PREFIX: "shared:", RATE_LIMIT_GENERAL: "100,600" };
    const connections = ["REST", "REDIS_URL", "a client of ioredis 5", "a client of redis 6", "a client of @upstash/redis"];
    const limiters = await Promise.all(connections.map((connection) => limiterOf(connection, shared)));
    const asked = Array.from({ length: 300 }, (_, i) => limiters[i % limiters.length].limit(request(), { address: "192.0.2.1" }));
    const verdicts = await Promise.all(asked);
    assert.equal(verdicts.filter(({ allowed }) => allowed).length, 100);
    // Redis decided every request.
    assert.ok(verdicts.every(({ degraded }) => !degraded));
  });

  it("limiters with equal variables share counts only if they also have the same client", async () => {
    const other = await startRedis();
    cleanups.push(() => other.stop());
    const [one, two] = [ioredisClient(ioredis, plain), ioredisClient(ioredis, other)];
    const env = variables({ RATE_LIMIT_GENERAL: "2,600", ...LONG_TIMEOUT });
    const limiters = [one, two, one].map((redis) => createLimiter({ env, redis }));
    const remaining = [];
    for (const limiter of limiters) remaining.push((await limiter.check("general", "192.0.2.1")).remaining);
    assert.deepEqual(remaining, [1, 1, 0]);
  });
});

describe("close()", () => {
  it("closing a limiter interrupts neither its own decisions nor those of a limiter with equal variables", async () => {
    const env = variables({ ...onTcp(), ...LONG_TIMEOUT, RATE_LIMIT_GENERAL: "1000,600" });
    const [one, two] = [createLimiter({ env }), createLimiter({ env })];
    const ask = (limiter) => limiter.limit(request(), { address: "192.0.2.1" });
    await Promise.all([ask(one), ask(two)]);
    const asked = [one, two].flatMap((limiter) => Array.from({ length: 50 }, () => ask(limiter)));
    await one.close();
    const later = await ask(two);
    await two.close();
    assert.ok([later, ...(await Promise.all(asked))].every(({ degraded }) => !degraded));
    assert.equal((await ask(one)).degraded, false);
    await one.close();
  });
});

describe("the cost of a decision", () => {
  for (const connection of ["REDIS_URL", "a client of ioredis 6", "a client of redis 6"]) {
    it(`a decision by ${connection} costs one command, and a remembered denial none`, async () => {
      const limiter = await limiterOf(connection, { RATE_LIMIT_GENERAL: "30,600", RATE_LIMIT_IP: "1000,3600" });
      const ask = () => limiter.limit(request(), { address: "192.0.2.1" });
      await ask();
      const before = await calls();
      for (let i = 0; i < 29; i += 1) assert.equal((await ask()).allowed, true);
      const admitted = await calls();
      assert.equal(admitted - before, 29);
      for (let i = 0; i < 20; i += 1) assert.equal((await ask()).allowed, false);
      assert.equal((await calls()) - admitted, 1);
    });
  }

  /** Counts the script calls that Redis has run. */
  async function calls() {
    const client = await plain.client();
    const text = await client.sendCommand(["INFO", "commandstats"]);
    client.destroy();
    return ["evalsha", "eval"].reduce((sum, name) => sum + Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(text)?.[1] ?? 0), 0);
  }
});

describe("a Redis that fails", () => {
  for (const [connection, make] of Object.entries({
    "REDIS_URL": (server) => ({ vars: onTcp(server) }),
    "a client of ioredis 6": (server) => ({ redis: ioredisClient(ioredis, server, { retryStrategy: () => 50 }) }),
    "a client of redis 6": async (server) => ({ redis: await connected(redis.createClient({ url: url(server), socket: { reconnectStrategy: 50 } })) }),
  })) {
    it(`memory decides while a Redis by ${connection} is down or hangs, and Redis decides afterwards`, async () => {
      const server = await startRedis();
      cleanups.push(() => server.stop());
      const { vars, redis: client } = await make(server);
      const limiter = createLimiter({ env: variables({ ...vars, REDIS_TIMEOUT: "500", RATE_LIMIT_GENERAL: "1000,600", REDIS_MAX_RECONNECT_ATTEMPTS: "2" }), redis: client });
      cleanups.push(() => limiter.close());
      const ask = () => limiter.limit(request(), { address: "192.0.2.1" });
      const waitForDecisionBy = (decider) => within(until(async () => {
        const verdict = await ask();
        assert.equal(verdict.allowed, true);
        return verdict.degraded === (decider === "memory");
      }), `${decider} to decide`, 30_000);
      await waitForDecisionBy("Redis");
      await server.kill();
      await waitForDecisionBy("memory");
      await within(until(async () => !(await ask()).allowed || (await limiter.health()).status === "degraded"), "the breaker to open", 30_000);
      await server.start();
      await waitForDecisionBy("Redis");
      server.pause();
      await waitForDecisionBy("memory");
      server.resume();
      await waitForDecisionBy("Redis");
      assert.equal((await limiter.health()).status, "ok");
    });
  }

  for (const [connection, make] of Object.entries({
    "a pool of redis 6": (server) => redis.createClientPool({ url: url(server), socket: { reconnectStrategy: 50 } }),
    "a client of redis 6": (server) => redis.createClient({ url: url(server), socket: { reconnectStrategy: 50 } }),
  })) {
    it(`${connection} sends no call after the outage for a request that memory has decided`, async () => {
      const server = await startRedis();
      cleanups.push(() => server.stop());
      const client = await connected(make(server));
      const limiter = createLimiter({ env: variables({ REDIS_TIMEOUT: "300", RATE_LIMIT_GENERAL: "1000,600" }), redis: client });
      const ask = () => limiter.limit(request(), { address: "192.0.2.1" });
      await ask();
      await server.kill();
      const verdicts = await Promise.all(Array.from({ length: 20 }, ask));
      assert.ok(verdicts.every(({ allowed, degraded }) => allowed && degraded));
      await server.start();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      const own = await server.client();
      // No request came since the outage, so Redis must have run no script.
      assert.doesNotMatch(await own.sendCommand(["INFO", "commandstats"]), /cmdstat_eval/);
    });
  }

  it("health reports that Redis refused the password, also by ioredis and in a cluster", async () => {
    for (const topology of [{}, { REDIS_CLUSTER: "true" }]) {
      const limiter = createLimiter({ env: variables({ ...LONG_TIMEOUT, ...topology, REDIS_URL: `redis://limiter:wrong-secret@127.0.0.1:${secured.port}`, REDIS_MAX_RECONNECT_ATTEMPTS: "0" }) });
      cleanups.push(() => limiter.close());
      let health;
      await within(until(async () => {
        await limiter.limit(request(), { address: "192.0.2.1" });
        health = await limiter.health();
        return health.failing !== undefined;
      }), "health to report the failure", 20_000);
      assert.match(health.failing.why, /password was refused/);
    }
  });

  it("memory decides and health shows no secret when Redis refuses the password or its certificate is not trusted", async () => {
    const wrong = { REDIS_URL: `redis://limiter:wrong-secret@127.0.0.1:${secured.port}` };
    const untrusted = { REDIS_URL: `rediss://limiter:${encodeURIComponent(PASSWORD)}@localhost:${tlsPort}` };
    const otherHost = { ...onTls(), REDIS_URL: `rediss://limiter:${encodeURIComponent(PASSWORD)}@127.0.0.1:${tlsPort}` };
    for (const vars of [wrong, untrusted, otherHost]) {
      const limiter = createLimiter({ env: variables({ ...LONG_TIMEOUT, ...vars }) });
      cleanups.push(() => limiter.close());
      const verdict = await limiter.limit(request(), { address: "192.0.2.1" });
      assert.deepEqual([verdict.allowed, verdict.degraded], [true, true]);
      const text = JSON.stringify(await limiter.health());
      assert.doesNotMatch(text, /wrong-secret|a password/);
    }
  });
});

describe("an error of a client", () => {
  /** Bundlers shorten class names, so the name says nothing. */
  class a extends Error {}
  const answered = (message) => overClient(() => Promise.reject(new a(message)), async () => {}).call('["GET","k"]', 1000);

  it("an error that begins with a Redis error code is Redis's answer, whatever its class is called", async () => {
    for (const message of ["NOSCRIPT No matching script.", "ERR unknown command", "NOPERM this user", "READONLY You can't write", "OOM command not allowed"]) {
      assert.deepEqual(await answered(message), [400, JSON.stringify({ error: message })]);
    }
  });

  it("any other error means that the call failed", async () => {
    for (const message of ["Connection is closed.", "connect ECONNREFUSED 127.0.0.1:6379", "The client is closed", "None of startup nodes is available", ""]) {
      assert.deepEqual(await answered(message), [0, ""]);
    }
  });
});

describe("createLimiter({ redis })", () => {
  it("values that are not clients, and clients whose options break scripts, are refused", async () => {
    for (const value of [null, 7, "redis://localhost", {}, new Map(), { get() {}, set() {} }]) await rejects(Promise.resolve().then(() => createLimiter({ redis: value })), "bad_argument");
    const lazy = { ...options(plain), lazyConnect: true };
    for (const further of [{ keyPrefix: "app:" }, { stringNumbers: true }]) {
      const error = await rejects(Promise.resolve().then(() => createLimiter({ redis: new ioredis.Redis({ ...lazy, ...further }) })), "bad_argument");
      assert.match(error.message, /keyPrefix|stringNumbers/);
    }
  });

  it("memory decides while the application's client is not connected, and the limiter does not connect it", async () => {
    const client = redis.createClient({ url: url(plain) });
    const limiter = createLimiter({ env: variables({ RATE_LIMIT_GENERAL: "5,60" }), redis: client });
    const verdict = await limiter.limit(request(), { address: "192.0.2.1" });
    assert.deepEqual([verdict.allowed, verdict.degraded, client.isOpen], [true, true, false]);
  });

  it("the limiter does not reopen a client that the application has closed", async () => {
    const client = ioredisClient(ioredis, plain);
    const limiter = createLimiter({ env: variables(LONG_TIMEOUT), redis: client });
    assert.equal((await limiter.limit(request(), { address: "192.0.2.1" })).degraded, false);
    await client.quit();
    assert.equal((await limiter.limit(request(), { address: "192.0.2.1" })).degraded, true);
    assert.equal(client.status, "end");
  });

  it("pipelines, clusters with automatic pipelining and clients with a key prefix are refused", async () => {
    const client = ioredisClient(ioredis, plain);
    const cluster = new ioredis5.Cluster([options(plain)], { lazyConnect: true, enableAutoPipelining: true });
    for (const value of [client.pipeline(), cluster, redis.createClient({ keyPrefix: "app:" })]) await rejects(Promise.resolve().then(() => createLimiter({ redis: value })), "bad_argument");
  });

  it("close() leaves the application's client open", async () => {
    const client = ioredisClient(ioredis, plain);
    const limiter = createLimiter({ env: variables(LONG_TIMEOUT), redis: client });
    await limiter.check("general", "192.0.2.1");
    await limiter.close();
    assert.equal(await client.ping(), "PONG");
  });
});

/** A program with a limiter over TCP. It has to end although it closes nothing. */
const PROGRAM = `
import { createLimiter } from "edge-limiter";
const limiter = createLimiter();
const results = await Promise.all(Array.from({ length: 8 }, () => limiter.check("general", "192.0.2.1")));
const { store, breaker } = await limiter.health();
console.log(results.filter(({ allowed }) => allowed).length, store, breaker);
`;

describe("REDIS_URL in each runtime", () => {
  const env = () => ({ REDIS_URL: url(plain), RATE_LIMIT_GENERAL: "5,600", REDIS_KEY_PREFIX: `${Math.random()}:`, ...LONG_TIMEOUT });

  it("a program in Node ends when it has nothing else to do, whether or not Redis runs", async (t) => {
    const cwd = await project(t, { "main.mjs": PROGRAM }, ["ioredis"]);
    assert.match(await run(process.execPath, ["main.mjs"], { cwd, env: env() }), /^5 redis closed$/m);
    const printed = await run(process.execPath, ["main.mjs"], { cwd, env: { ...env(), REDIS_URL: "redis://127.0.0.1:9" } });
    assert.match(printed, /^6 memory open$/m);
    assert.match(printed, /cannot be reached/);
  });

  it("REDIS_URL works in Node with ioredis 5", async (t) => {
    const cwd = await project(t, { "main.mjs": PROGRAM }, ["ioredis-5"]);
    renameSync(path.join(cwd, "node_modules", "ioredis-5"), path.join(cwd, "node_modules", "ioredis"));
    assert.match(await run(process.execPath, ["main.mjs"], { cwd, env: env() }), /^5 redis closed$/m);
  });

  it("the log says what to install in Node without ioredis, and memory decides", async (t) => {
    const cwd = await project(t, { "main.mjs": PROGRAM });
    const printed = await run(process.execPath, ["main.mjs"], { cwd, env: env() });
    assert.match(printed, /^6 memory open$/m);
    assert.equal(printed.match(/npm install ioredis/g).length, 1, printed);
  });

  it("REDIS_URL works in Bun", async (t) => {
    const cwd = await project(t, { "main.mjs": PROGRAM }, ["ioredis"]);
    assert.match(await run(bun(), ["--no-install", "main.mjs"], { cwd, env: env() }), /^5 redis closed$/m);
  });

  it("REDIS_URL works in Deno with only network and environment permissions", async (t) => {
    const cwd = await project(t, { "main.mjs": PROGRAM }, ["ioredis"]);
    const args = ["run", "--no-prompt", "--no-remote", "--no-lock", "--allow-net=127.0.0.1", "--allow-env", "main.mjs"];
    assert.match(await run(deno(), args, { cwd, env: { ...env(), DENO_DIR: path.join(cwd, ".deno") } }), /^5 redis closed$/m);
  });
});

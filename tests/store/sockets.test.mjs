/** A Worker calls Redis over TCP and TLS, with one connection and one write for each decision. Runs on workerd and a real Redis. */

import assert from "node:assert/strict";
import { connect, createServer } from "node:net";
import { once } from "node:events";
import { after, afterEach, before, beforeEach, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { makeCertificates } from "../harness/certificates.mjs";
import { ADMIN_TOKEN, blocked, control, eventually, get, good, isBlocked, pages } from "../harness/control.mjs";
import { CALLER, HOUR_S } from "../harness/fixtures.mjs";
import { PREFIX, WINDOW, ask, consumed } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { startTcpProxy } from "../harness/tcp-proxy.mjs";
import { within } from "../harness/within.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { freePort } from "../upstash/free-port.mjs";
import { startRedis } from "../upstash/redis-server.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";

const PASSWORD = "planted-password-%c3%bc-\u{fc}";
const USER = "limiter";
const OTHER = "192.0.2.2";

/** REDIS_TIMEOUT of tests in which calls fail: long enough that a healthy call succeeds on a busy machine. */
const TIMEOUT_MS = 400;

let redis, client, proxy;
const limiters = [];

before(async () => {
  redis = await startRedis({ args: ["--enable-debug-command", "yes"] });
  client = await redis.client();
  proxy = await startTcpProxy(redis.port);
});
beforeEach(async () => {
  await client.flushAll();
  await client.sendCommand(["SCRIPT", "FLUSH"]);
  Object.assign(proxy, { connections: [], answer: undefined, pieceBytes: 0 });
});
afterEach(async () => {
  await Promise.all(limiters.splice(0).map((limiter) => limiter.stop()));
});
after(async () => {
  await proxy?.stop();
  await redis?.stop();
});

/** Starts a limiter on the Redis behind the proxy, unless `vars` name another Redis. */
async function start(vars = {}, options = {}) {
  const limiter = await startWorkerd({
    ...options,
    vars: {
      ADMIN_TOKEN, REDIS_URL: `redis://127.0.0.1:${proxy.port}`, REDIS_KEY_PREFIX: PREFIX, REDIS_TIMEOUT: 30_000,
      RATE_LIMIT_GENERAL: `3,${WINDOW}`, RATE_LIMIT_IP: "off", RATE_LIMIT_METRICS: false, ...vars,
    },
  });
  limiters.push(limiter);
  return limiter;
}

const health = async (limiter) => good(limiter, "GET", "health");
const healthSummary = async (limiter) => {
  const { status, store, breaker } = await health(limiter);
  return `${status}, ${store}, ${breaker}`;
};
const HEALTHY = "ok, redis, closed";
const BREAKER_OPEN = "degraded, memory, open";

async function statuses(limiter, count, caller = CALLER) {
  const seen = [];
  for (let request = 0; request < count; request++) seen.push(await ask(limiter, caller));
  return seen;
}

/** Parses the commands that a client sent on one connection. */
function commandsIn(received) {
  const text = Buffer.concat(received).toString();
  return text.split(/\*\d+\r\n/).slice(1).map((command) => command.split("\r\n").filter((_, i) => i % 2 === 1));
}

/** Waits until the only open connection is the test's own client. */
const allClosed = () => within((async () => {
  for (;;) {
    const { connected } = /connected_clients:(?<connected>\d+)/.exec(await client.info("clients")).groups;
    if (connected === "1" && proxy.open === 0) return;
  }
})(), "every connection to be closed");

describe("decisions over TCP", () => {
  it("each decision takes one connection and one write", async () => {
    const limiter = await start();
    assert.deepEqual(await statuses(limiter, 1, OTHER), [200]); // loads the script
    proxy.connections.length = 0;
    assert.deepEqual(await statuses(limiter, 5), [200, 200, 200, 429, 429]);
    // The isolate remembers the denial, so the last request does not ask Redis.
    assert.equal(proxy.connections.length, 4);
    for (const received of proxy.connections) {
      assert.equal(received.length, 1, "all commands should arrive in one read");
      assert.deepEqual(commandsIn(received).map(([name]) => name), ["EVALSHA"]);
    }
    await allClosed();
    assert.equal(await healthSummary(limiter), HEALTHY);
  });

  it("a decision sends AUTH and SELECT in the same write, where they are needed", async () => {
    await client.sendCommand(["ACL", "SETUSER", USER, "on", `>${PASSWORD}`, "~*", "+@all"]);
    const limiter = await start({ REDIS_USERNAME: USER, REDIS_PASSWORD: PASSWORD, REDIS_DATABASE: 3 });
    // An isolate's first call waits until Redis has accepted both.
    assert.equal(await ask(limiter, OTHER), 200);
    assert.deepEqual(proxy.connections[0].map((sent) => commandsIn([sent]).map(([name]) => name)), [["AUTH", "SELECT"], ["EVALSHA"]]);
    proxy.connections.length = 0;
    assert.deepEqual(await statuses(limiter, 4), [200, 200, 200, 429]);
    for (const received of proxy.connections) {
      assert.equal(received.length, 1, "all commands should arrive in one read");
      const commands = commandsIn(received);
      assert.deepEqual(commands.slice(0, 2), [["AUTH", USER, PASSWORD], ["SELECT", "3"]]);
      assert.equal(commands.length, 3);
    }
    const third = await redis.client();
    await third.select(3);
    assert.deepEqual([(await third.keys("*")).sort().reverse(), await client.keys("*")], [[OTHER, CALLER].map((caller) => `${PREFIX}general:${caller}`), []]);
    third.destroy();
    await limiter.stop();
    assert.doesNotMatch(limiter.logs(), /planted/);
  });

  it("REDIS_URL can hold the user, the password, the host, the port and the database", async () => {
    await client.sendCommand(["ACL", "SETUSER", USER, "on", `>${PASSWORD}`, "~*", "+@all"]);
    const limiter = await start({ REDIS_URL: `redis://${USER}:${encodeURIComponent(PASSWORD)}@localhost:${proxy.port}/3` });
    assert.deepEqual(await statuses(limiter, 4), [200, 200, 200, 429]);
    assert.deepEqual(commandsIn(proxy.connections[0]).slice(0, 2), [["AUTH", USER, PASSWORD], ["SELECT", "3"]]);
  });

  it("REDIS_URL can name an IPv6 address", async () => {
    const server = createServer((socket) => socket.pipe(connect(redis.port, "127.0.0.1")).pipe(socket)).listen(0, "::1");
    await once(server, "listening");
    const limiter = await start({ REDIS_URL: `redis://[::1]:${server.address().port}` });
    assert.deepEqual(await statuses(limiter, 4), [200, 200, 200, 429]);
    assert.equal(await healthSummary(limiter), HEALTHY);
    await limiter.stop();
    server.close();
  });

  it("limiters over TCP and over REST share one limit exactly", async (t) => {
    const standIn = await startStandIn({ redis });
    t.after(() => standIn.stop());
    const vars = { RATE_LIMIT_GENERAL: `100,${WINDOW}` };
    const sharing = [
      await start(vars),
      await start({ ...vars, REDIS_URL: "", UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token }),
      await start(vars),
    ];
    for (const limiter of sharing) assert.equal(await ask(limiter, OTHER), 200);
    const seen = await Promise.all(Array.from({ length: 390 }, async (_, i) => [i % 3, await ask(sharing[i % 3], CALLER)]));
    const admitted = seen.filter(([, status]) => status === 200);
    assert.equal(admitted.length, 100);
    assert.deepEqual([...new Set(admitted.map(([by]) => by))].sort(), [0, 1, 2], "each limiter should admit some requests");
    assert.equal(await consumed(client, `general:${CALLER}`), 100);
    await within((async () => {
      while (proxy.open > 0) await new Promise(setImmediate);
    })(), "every connection to be closed");
  });
});

describe("the control plane over TCP", () => {
  it("a limiter reads large answers that arrive in small pieces", async () => {
    const limiter = await start();
    await good(limiter, "PUT", blocked("198.51.100.0/24"), { json: { reason: "one \u{fc} \"two\"" } });
    const record = await client.hGet(`${PREFIX}blocked_ranges`, "198.51.100.0/24");
    for (let network = 0; network < 40; network++) {
      const ranges = Array.from({ length: 250 }, (_, i) => [`10.${network}.${i}.0/24`, record]);
      await client.hSet(`${PREFIX}blocked_ranges`, Object.fromEntries(ranges));
    }
    // A new isolate has to read all the ranges, 100 bytes at a time.
    proxy.pieceBytes = 100;
    const other = await start();
    const began = performance.now();
    await eventually(() => isBlocked(other, "10.39.249.7", null));
    const all = await pages(other, "blocked", "blocked", 1000);
    assert.equal(all.flatMap((page) => page.blocked).length, 10_001);
    const took = performance.now() - began;
    assert.ok(took < 10_000, `reading the blocks took ${took} ms`);
    assert.equal(await healthSummary(other), HEALTHY);
  });

  it("a block is set, listed and lifted across isolates", async () => {
    const [limiter, other] = [await start(), await start()];
    await good(limiter, "PUT", `blocked/${CALLER}`, { json: { seconds: 600, reason: "a test" } });
    await eventually(() => isBlocked(other, CALLER, 600));
    const page = await good(other, "GET", "blocked");
    assert.deepEqual(JSON.stringify(page).match(/a test/g)?.length, 1);
    await good(other, "DELETE", `blocked/${CALLER}`);
    await eventually(async () => assert.equal((await get(limiter, CALLER)).status, 200));
    await allClosed();
  });
});

describe("metrics over TCP", () => {
  it("a scrape returns the counts that isolates flushed to Redis", async () => {
    const limiter = await start({ RATE_LIMIT_METRICS: true, RATE_LIMIT_METRICS_SECONDS: 1, METRICS_TOKEN: "a-metrics-token-of-this-test" });
    assert.deepEqual(await statuses(limiter, 4), [200, 200, 200, 429]);
    await eventually(async () => {
      await ask(limiter, CALLER);
      const answer = await send(limiter.url, { path: "/_limiter/metrics", headers: { Authorization: "Bearer a-metrics-token-of-this-test" } });
      assert.match(answer.text(), /^\S*redis_up 1$/m);
      assert.match(answer.text(), /outcome="denied"[^\n]* [1-9]/);
    }, 20_000);
    await allClosed();
  });
});

describe("clients that disconnect", () => {
  it("no connection to Redis stays open after its client disconnects", async () => {
    const limiter = await start({ RATE_LIMIT_GENERAL: `100000,${WINDOW}` });
    await ask(limiter, OTHER);
    // Redis does not answer while the clients connect and disconnect.
    redis.pause();
    const sockets = Array.from({ length: 100 }, () => {
      const socket = connect(limiter.port, "127.0.0.1");
      socket.on("error", () => {});
      socket.write(`GET / HTTP/1.1\r\nHost: limiter\r\nCF-Connecting-IP: ${CALLER}\r\n\r\n`);
      return socket;
    });
    await within((async () => {
      while (proxy.open < 100) await new Promise(setImmediate);
    })(), "100 connections to Redis");
    for (const socket of sockets) socket.resetAndDestroy();
    await within((async () => {
      while (proxy.open > 0) await new Promise(setImmediate);
    })(), "the connections to be closed while Redis is still paused");
    redis.resume();
    await allClosed();
    assert.equal(await ask(limiter, CALLER), 200);
    assert.equal(await healthSummary(limiter), HEALTHY);
  });
});

describe("a Redis server that fails", () => {
  const garbage = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
  const UNREACHABLE = "Redis cannot be reached";
  const LATE = "no answer within REDIS_TIMEOUT";
  const MALFORMED = "the answer has an unexpected form";
  const FAULTS = [
    ["accepts the connection and never answers", () => {}, LATE],
    ["answers half a reply", (client) => client.write("*3\r\n$-1\r\n$5\r\nhal"), LATE],
    ["answers byte by byte and never ends", (client) => endless(client, 1), LATE],
    ["answers half a reply and closes the connection", (client) => client.end("*3\r\n$-1\r\n$5\r\nhal"), UNREACHABLE],
    ["closes the connection", (client) => client.end(), UNREACHABLE],
    ["resets the connection", (client) => client.resetAndDestroy(), UNREACHABLE],
    ["speaks HTTP", (client) => client.write(garbage), MALFORMED],
    ["answers bytes that are not RESP", (client) => client.write(Buffer.from([0x16, 0x03, 0x03, 0xff, 0])), MALFORMED],
    ["announces an array of a thousand million values", (client) => client.write("*1000000000\r\n"), MALFORMED],
    ["answers more than the limiter reads", (client) => endless(client, 1024 * 1024), MALFORMED, 10_000],
    ["answers OK to a script", (client) => client.write("+OK\r\n"), MALFORMED],
    ["is out of memory", (client) => client.write(`-OOM command not allowed ${CALLER}\r\n`), "Redis refused the command: OOM"],
    ["has too many clients", (client) => client.end("-ERR max number of clients reached\r\n"), "Redis refused the command: ERR"],
  ];

  function endless(client, size) {
    const text = `$${size}\r\n${"a".repeat(size)}\r\n`;
    client.write("*4000000\r\n");
    const write = () => {
      if (client.destroyed) return;
      if (client.write(size === 1 ? ":1\r\n" : text)) setTimeout(write, size === 1 ? 10 : 0);
      else client.once("drain", write);
    };
    write();
  }

  for (const [what, answer, reason, timeout = TIMEOUT_MS] of FAULTS) {
    it(`memory decides within the time-out while Redis ${what}, and Redis decides after it recovers`, async () => {
      const limiter = await start({
        RATE_LIMIT_GENERAL: `20,${HOUR_S}`, REDIS_TIMEOUT: timeout, REDIS_MAX_RECONNECT_ATTEMPTS: 0, RATE_LIMIT_FALLBACK_FACTOR: 1,
      });
      assert.equal(await ask(limiter, OTHER), 200);
      proxy.answer = answer;
      for (let request = 0; request < 6; request++) {
        const began = performance.now();
        assert.equal(await ask(limiter, CALLER), 200);
        const took = performance.now() - began;
        assert.ok(took < timeout + 300, `the request took ${took} ms`);
      }
      await limiter.logged(new RegExp(`: ${reason}.*it is not called for`));
      assert.equal(await healthSummary(limiter), BREAKER_OPEN);
      await within((async () => {
        while (proxy.open > 0) await new Promise(setImmediate);
      })(), "the connections to be closed");
      proxy.answer = undefined;
      await within((async () => {
        while ((await healthSummary(limiter)) !== HEALTHY) await ask(limiter, OTHER);
      })(), "recovery", 30_000);
      assert.doesNotMatch(limiter.logs(), new RegExp(CALLER));
      await allClosed();
    });
  }

  it("memory decides at once when nothing listens on Redis's port", async () => {
    const limiter = await start({ REDIS_URL: `redis://127.0.0.1:${await freePort()}`, REDIS_TIMEOUT: 5000 });
    const began = performance.now();
    assert.deepEqual(await statuses(limiter, 6), [200, 200, 200, 429, 429, 429]);
    assert.ok(performance.now() - began < 2000);
    for (let i = 10; i < 16; i++) await ask(limiter, `192.0.2.${i}`);
    await limiter.logged(/: Redis cannot be reached.*it is not called for/);
    assert.equal(await healthSummary(limiter), BREAKER_OPEN);
  });

  it("memory decides within the time-out while Redis accepts no connections", async (t) => {
    const unresponsive = await startRedis({ args: ["--tcp-backlog", "1"] });
    t.after(() => unresponsive.stop());
    unresponsive.pause();
    const waiting = [];
    t.after(() => waiting.forEach((socket) => socket.destroy()));
    // Connect until the backlog of the listening socket is full.
    for (let isFull = false; !isFull; ) {
      const socket = connect(unresponsive.port, "127.0.0.1").on("error", () => {});
      waiting.push(socket);
      isFull = await Promise.race([once(socket, "connect").then(() => false), delay(300, true)]);
    }
    const limiter = await start({ REDIS_URL: `redis://127.0.0.1:${unresponsive.port}`, REDIS_TIMEOUT: TIMEOUT_MS, REDIS_MAX_RECONNECT_ATTEMPTS: 0 });
    const began = performance.now();
    assert.deepEqual(await statuses(limiter, 2), [200, 200]);
    assert.ok(performance.now() - began < 2 * (TIMEOUT_MS + 300));
    for (let i = 10; i < 14; i++) await ask(limiter, `192.0.2.${i}`);
    await limiter.logged(new RegExp(`: ${LATE}.*it is not called for`));
  });

  const REFUSED = "the token or password was refused";
  const PERMITTED = "lacks a permission";
  for (const [what, vars, reason, needsNoPassword = false] of [
    ["the password is wrong", { REDIS_PASSWORD: "planted-wrong" }, REFUSED],
    ["the user is unknown", { REDIS_USERNAME: "planted-user", REDIS_PASSWORD: PASSWORD }, REFUSED],
    ["no password is configured and Redis requires one", {}, REFUSED],
    ["a password is configured and Redis has none", { REDIS_PASSWORD: PASSWORD }, REFUSED, true],
    ["the user may not run scripts", { REDIS_USERNAME: USER, REDIS_PASSWORD: PASSWORD }, PERMITTED],
    ["the database does not exist", { REDIS_PASSWORD: PASSWORD, REDIS_DATABASE: 99 }, "Redis refused the command: ERR"],
    ["the user may not select the database", { REDIS_USERNAME: USER, REDIS_PASSWORD: PASSWORD, REDIS_DATABASE: 3 }, PERMITTED],
    ["the password is wrong and Redis requires none", { REDIS_USERNAME: USER, REDIS_PASSWORD: "planted-wrong" }, REFUSED, true],
  ]) {
    it(`memory decides when ${what}, and health reports the reason without a secret`, async (t) => {
      const rights = vars.REDIS_DATABASE ? ["+@all", "-select"] : ["+get"];
      await client.sendCommand(["ACL", "SETUSER", USER, "reset", "on", `>${PASSWORD}`, "~*", ...rights]);
      if (!needsNoPassword) await client.configSet("requirepass", PASSWORD);
      t.after(() => client.configSet("requirepass", ""));
      const limiter = await start(vars);
      for (let i = 10; i < 16; i++) assert.equal(await ask(limiter, `192.0.2.${i}`), 200);
      await limiter.logged(new RegExp(reason));
      const answer = await control(limiter, "GET", "health");
      assert.match(answer.text(), new RegExp(reason));
      assert.equal(await healthSummary(limiter), BREAKER_OPEN);
      for (const text of [answer.text(), limiter.logs()]) assert.doesNotMatch(text, /planted/);
      // The limiter sends no further command: it would run in another database or as another user.
      if (vars.REDIS_PASSWORD && (reason !== PERMITTED || vars.REDIS_DATABASE)) {
        const sent = new Set(proxy.connections.flatMap((received) => commandsIn(received).map(([name]) => name)));
        assert.deepEqual([...sent].filter((name) => name !== "AUTH" && name !== "SELECT"), []);
      }
    });
  }
});

describe("Redis over TLS", () => {
  let certificates, secure, port;
  before(async () => {
    certificates = makeCertificates();
    port = await freePort();
    secure = await startRedis({ args: certificates.redisArgs(port) });
  });
  after(async () => {
    await secure?.stop();
    certificates?.remove();
  });
  beforeEach(async () => {
    const tlsClient = await secure.client();
    await tlsClient.flushAll();
    tlsClient.destroy();
  });
  const url = (host = "localhost") => ({ REDIS_URL: `rediss://${host}:${port}`, REDIS_TIMEOUT: 5000 });

  it("Redis decides when its certificate is trusted", async () => {
    const limiter = await start(url(), { certificates: [certificates.authority] });
    assert.deepEqual(await statuses(limiter, 4), [200, 200, 200, 429]);
    assert.equal(await healthSummary(limiter), HEALTHY);
    const tlsClient = await secure.client();
    assert.equal(await consumed(tlsClient, `general:${CALLER}`), 3);
    await within((async () => {
      while (!/connected_clients:1\r/.test(await tlsClient.info("clients")));
    })(), "every connection to be closed");
  });

  for (const [what, host, isTrusted] of [
    ["the certificate names another host", "127.0.0.1", true],
    ["no trusted authority has signed the certificate", "localhost", false],
  ]) {
    it(`memory decides when ${what}, and health says that Redis cannot be reached`, async () => {
      const limiter = await start(url(host), { certificates: isTrusted ? [certificates.authority] : [] });
      for (let i = 10; i < 16; i++) assert.equal(await ask(limiter, `192.0.2.${i}`), 200);
      const { store, failing } = await health(limiter);
      assert.equal(store, "memory");
      assert.match(JSON.stringify(failing), /cannot be reached/);
      const tlsClient = await secure.client();
      assert.deepEqual(await tlsClient.keys("*"), []);
    });
  }

  it("memory decides when Redis does not speak TLS", async () => {
    const limiter = await start({ REDIS_URL: `rediss://127.0.0.1:${redis.port}`, REDIS_TIMEOUT: 1000 });
    for (let i = 10; i < 16; i++) assert.equal(await ask(limiter, `192.0.2.${i}`), 200);
    assert.equal(await healthSummary(limiter), BREAKER_OPEN);
  });

  it("memory decides after REDIS_TIMEOUT when the TLS handshake does not complete", async () => {
    proxy.answer = () => {};
    const limiter = await start({ REDIS_URL: `rediss://127.0.0.1:${proxy.port}`, REDIS_TIMEOUT: TIMEOUT_MS });
    const began = performance.now();
    assert.equal(await ask(limiter, CALLER), 200);
    assert.ok(performance.now() - began < TIMEOUT_MS + 300);
    await allClosed();
  });
});

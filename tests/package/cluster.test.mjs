/** The package on a real Redis Cluster of three masters and three replicas. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import * as ioredis from "ioredis";
import * as ioredis5 from "ioredis-5";
import * as redis from "redis";
import * as redis5 from "redis-5";
import { command, startCluster } from "../harness/cluster.mjs";
import { within } from "../harness/within.mjs";
import { createLimiter, variables } from "./harness.mjs";

const LONG_TIMEOUT = { REDIS_TIMEOUT: "30000" };

let cluster;
const cleanups = [];
before(async () => {
  cluster = await startCluster();
});
after(async () => {
  for (const cleanup of cleanups.reverse()) await cleanup();
  await cluster?.stop();
  setTimeout(exitAnyway, 20_000).unref();
});

/** Ends the process if a client has left a connection open, and logs which resources are open, so that other tests need not wait. */
function exitAnyway() {
  console.error("cluster.test.mjs did not end within 20 s because these resources are still open:", process.getActiveResourcesInfo());
  process.exit();
}

const seeds = () => cluster.redises.slice(0, 2).map(({ host, port }) => ({ host, port }));

function ioredisCluster({ Cluster }) {
  const client = new Cluster(seeds());
  client.on("error", () => {});
  cleanups.push(() => client.disconnect());
  return client;
}

async function nodeRedisCluster({ createCluster }) {
  const client = createCluster({ rootNodes: seeds().map(({ host, port }) => ({ url: `redis://${host}:${port}` })) });
  client.on("error", () => {});
  await client.connect();
  cleanups.push(() => client.destroy());
  return client;
}

/** The ways in which a limiter can connect to the cluster: variables or a client, by name. */
const CONNECTIONS = {
  REDIS_CLUSTER: () => ({ vars: { REDIS_CLUSTER: "true", REDIS_CLUSTER_NODES: cluster.nodes } }),
  "a client of ioredis 6": () => ({ redis: ioredisCluster(ioredis) }),
  "a client of ioredis 5": () => ({ redis: ioredisCluster(ioredis5) }),
  "a client of redis 6": async () => ({ redis: await nodeRedisCluster(redis) }),
  "a client of redis 5": async () => ({ redis: await nodeRedisCluster(redis5) }),
};

async function limiterOf(connection, vars) {
  const { vars: connectionVars, redis: client } = await CONNECTIONS[connection]();
  const limiter = createLimiter({ env: variables({ ...LONG_TIMEOUT, ...connectionVars, ...vars }), redis: client });
  cleanups.push(() => limiter.close());
  return limiter;
}

const ask = (limiter, address = "192.0.2.1", path = "/") => limiter.limit(new Request(`http://127.0.0.1${path}`), { address });

/** The pause between two requests of a caller. */
const PAUSE_MS = 100;

const caller = (i) => `198.51.${100 + (i >> 8)}.${i & 255}`;

/** Starts callers that send some requests a second until `stop`. It returns all verdicts and how often each caller was admitted. */
function load(limiters, callers) {
  const verdicts = [];
  const admitted = new Array(callers).fill(0);
  let isRunning = true;
  const runCaller = async (i, limiter) => {
    while (isRunning) {
      const { allowed, status, degraded } = await ask(limiter, caller(i));
      verdicts.push({ caller: i, allowed, status, degraded });
      if (allowed) admitted[i] += 1;
      await delay(PAUSE_MS);
    }
  };
  const running = limiters.flatMap((limiter) => Array.from({ length: callers }, (_, i) => runCaller(i, limiter)));
  return {
    verdicts,
    async stop() {
      isRunning = false;
      await Promise.all(running);
      return { verdicts, admitted };
    },
  };
}

for (const connection of Object.keys(CONNECTIONS)) {
  describe(`a limiter in a cluster by ${connection}`, () => {
    it("the limits of many callers hold exactly while their keys are on all masters", async () => {
      const limiter = await limiterOf(connection, { RATE_LIMIT_GENERAL: "10,600", RATE_LIMIT_IP: "1000,3600" });
      const verdicts = await Promise.all(Array.from({ length: 30 * 25 }, async (_, i) => ({ caller: i % 30, ...(await ask(limiter, caller(i % 30))) })));
      for (let i = 0; i < 30; i += 1) assert.equal(verdicts.filter((verdict) => verdict.caller === i && verdict.allowed).length, 10, caller(i));
      assert.ok(verdicts.every(({ degraded }) => !degraded));
      const { status, store } = await limiter.health();
      assert.deepEqual([status, store], ["ok", "redis"]);
    });

    it("blocks, events and the application's own keys work", async () => {
      const limiter = await limiterOf(connection, { RATE_LIMIT_GENERAL: "5,60" });
      const own = limiter.redis;
      await own.blockIP("192.0.2.7", 600, "a reason");
      await own.blockIP("192.0.2.8");
      assert.deepEqual((await own.getBlockedIPs()).map(({ ip }) => ip).sort(), ["192.0.2.7", "192.0.2.8"]);
      const verdict = await ask(limiter, "192.0.2.7");
      assert.deepEqual([verdict.allowed, verdict.blocked], [false, true]);
      assert.equal(await own.unblockIP("192.0.2.7"), true);
      assert.equal((await ask(limiter, "192.0.2.7")).allowed, true);
      await own.logRateLimitEvent({ identifier: "192.0.2.9", policy: "general", method: "GET", path: "/x" });
      await within(until(async () => (await own.getRateLimitEvents()).length > 0), "the event to be recorded", 30_000);
      for (let i = 0; i < 20; i += 1) await own.set(`k${i}`, String(i));
      assert.deepEqual([await own.get("k7"), await own.incr("k7"), await own.get("none")], ["7", 8, null]);
      assert.equal(await own.del(...Array.from({ length: 20 }, (_, i) => `k${i}`)), 20);
      assert.equal((await limiter.usage("general", "192.0.2.7")).used, 1);
      await limiter.reset("general", "192.0.2.7");
      assert.equal((await limiter.usage("general", "192.0.2.7")).used, 0);
    });

    it("metrics count the keys of all masters and add up the masters' figures", async () => {
      const prefix = `gauges${Object.keys(CONNECTIONS).indexOf(connection)}:`;
      const limiter = await limiterOf(connection, { RATE_LIMIT_GENERAL: "5,600", REDIS_KEY_PREFIX: prefix, METRICS_TOKEN: "a-metrics-token-of-this-test", RATE_LIMIT_METRICS: "true" });
      for (let i = 0; i < 60; i += 1) await ask(limiter, caller(i));
      await limiter.tend();
      const answer = await limiter.controlPlane(new Request("http://127.0.0.1/_limiter/metrics", { headers: { Authorization: "Bearer a-metrics-token-of-this-test" } }), { address: "192.0.2.1" });
      const text = await answer.text();
      const figure = (name) => Number(new RegExp(`^${name}(?:{[^}]*})? (\\S+)`, "m").exec(text)?.[1]);
      assert.ok(figure("edge_limiter_keys") >= 60, text);
      assert.ok(figure("redis_connected_clients") >= 3);
      assert.equal(figure("redis_connected_slaves"), 3);
    });
  });
}

async function until(holds) {
  while (!(await holds())) await delay(100);
}

describe("a cluster", () => {
  it("each master gets an equal share of 10,000 callers, within 20 %", async () => {
    const limiter = await limiterOf("REDIS_CLUSTER", { RATE_LIMIT_GENERAL: "5,600", REDIS_KEY_PREFIX: "even:" });
    const count = async () => Promise.all((await cluster.onMasters(["DBSIZE"])).map(Number));
    const before = await count();
    for (let from = 0; from < 10_000; from += 200) await Promise.all(Array.from({ length: 200 }, (_, i) => ask(limiter, caller(from + i))));
    const shares = (await count()).map((keys, i) => keys - before[i]);
    const even = 10_000 / shares.length;
    assert.ok(shares.reduce((sum, share) => sum + share, 0) >= 10_000, String(shares));
    for (const share of shares) assert.ok(Math.abs(share - even) <= 0.2 * even, String(shares));
  });

  for (const [one, other] of [["REDIS_CLUSTER", "a client of redis 6"], ["a client of ioredis 5", "a client of redis 5"]]) {
    it(`each request by ${one} and ${other} is counted once while slots move, and memory never decides`, async () => {
      const limiters = await limitersSharing(one, other);
      const { stop } = load(limiters, CALLERS);
      await delay(300);
      const before = await redirections();
      const [from, to] = await cluster.masters();
      await cluster.reshard(from, to, 1000);
      await cluster.reshard(to, from, 1000);
      const { verdicts, admitted } = await stop();
      const after = await redirections();
      await cluster.settled();
      assert.deepEqual(verdicts.filter(({ degraded, status }) => degraded || (status !== 200 && status !== 429)), []);
      assert.ok(after.MOVED > before.MOVED, JSON.stringify(after));
      // Every admission is counted once.
      assert.deepEqual(await counted(limiters[0]), admitted);
    });
  }

  it("each request that Redis decides is counted once over a planned failover", async () => {
    const limiters = await limitersSharing("REDIS_CLUSTER", "a client of redis 6");
    const { stop } = load(limiters, CALLERS);
    await delay(300);
    const [master] = await cluster.masters();
    await cluster.failover(master);
    await delay(1000);
    const { verdicts, admitted } = await stop();
    await cluster.settled();
    assert.deepEqual(verdicts.filter(({ allowed, status }) => !allowed || status !== 200), []);
    const counts = await counted(limiters[0]);
    for (let i = 0; i < CALLERS; i += 1) {
      const byMemory = verdicts.filter((verdict) => verdict.caller === i && verdict.degraded).length;
      // Redis may have run a call that failed.
      assert.ok(Math.abs(counts[i] - admitted[i]) <= byMemory, `${caller(i)}: ${admitted[i]} admitted, ${byMemory} by memory, ${counts[i]} counted`);
    }
  });

  it("a tenant's limit holds although its callers' quotas are in other slots, and denied requests get their units back", async () => {
    const vars = {
      RATE_LIMIT_GENERAL: "1000,600", RATE_LIMIT_TENANT: "30,600", RATE_LIMIT_POLICIES: '{"tenant":{"key":"header:x-tenant"}}', REDIS_KEY_PREFIX: "tenants:",
      RATE_LIMIT_ROUTES: '[{"path":"/t","policies":["general","tenant"]}]',
    };
    const limiters = [await limiterOf("REDIS_CLUSTER", vars), await limiterOf("a client of redis 6", vars)];
    const asked = Array.from({ length: 200 }, async (_, i) => {
      const address = caller(i % 10);
      const request = new Request("http://127.0.0.1/t", { headers: { "X-Tenant": "acme" } });
      return { address, ...(await limiters[i % 2].limit(request, { address })) };
    });
    const verdicts = await Promise.all(asked);
    assert.ok(verdicts.every(({ degraded }) => !degraded));
    const admitted = verdicts.filter(({ allowed }) => allowed);
    assert.equal(admitted.length, 30);
    // Units are given back in the background.
    for (let i = 0; i < 10; i += 1) {
      const expected = admitted.filter(({ address }) => address === caller(i)).length;
      await within(until(async () => (await limiters[0].usage("general", caller(i))).used === expected), `usage of ${expected} units by ${caller(i)}`);
    }
  });

  it("memory admits callers of a slot that is half moved, and Redis decides once the slot has moved", async () => {
    const limiter = await limiterOf("REDIS_CLUSTER", { RATE_LIMIT_GENERAL: "1000,600", REDIS_KEY_PREFIX: "half:", REDIS_TIMEOUT: "1000" });
    const address = "203.0.113.5";
    assert.equal((await ask(limiter, address)).degraded, false);
    const [first] = await cluster.masters();
    const slot = String(await command(first.server, ["CLUSTER", "KEYSLOT", `{${address}}`]));
    const from = await cluster.ownerOf(Number(slot));
    const to = (await cluster.masters()).find(({ id }) => id !== from.id);
    await command(to.server, ["CLUSTER", "SETSLOT", slot, "IMPORTING", from.id]);
    await command(from.server, ["CLUSTER", "SETSLOT", slot, "MIGRATING", to.id]);
    // One of the caller's keys exists on this master and another does not, so neither master can run the script.
    const before = await redirections();
    for (let i = 0; i < 3; i += 1) {
      const { allowed, degraded } = await ask(limiter, address);
      assert.deepEqual([allowed, degraded], [true, true]);
    }
    assert.ok((await redirections()).TRYAGAIN > before.TRYAGAIN);
    // Callers of other slots are not affected.
    assert.equal((await ask(limiter, "203.0.113.6")).degraded, false);
    const keys = await command(from.server, ["CLUSTER", "GETKEYSINSLOT", slot, "100"]);
    await command(from.server, ["MIGRATE", to.server.host, String(to.server.port), "", "0", "5000", "KEYS", ...keys]);
    for (const { server } of [to, from]) await command(server, ["CLUSTER", "SETSLOT", slot, "NODE", to.id]);
    await within(until(async () => !(await ask(limiter, address)).degraded), "Redis to decide again", 30_000);
    await cluster.settled();
  });

  it("no caller below its limit is denied while a master is killed, and its replica then decides", async () => {
    const limiter = await limiterOf("REDIS_CLUSTER", { RATE_LIMIT_GENERAL: "100000,600", REDIS_TIMEOUT: "1000" });
    const { stop } = load([limiter], 40);
    await delay(500);
    const [, master] = await cluster.masters();
    await master.server.kill();
    await cluster.promoted(master);
    await within(until(async () => {
      const all = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(limiter, caller(i))));
      return all.every(({ degraded }) => !degraded);
    }), "all masters to decide again", 60_000);
    const { verdicts } = await stop();
    assert.deepEqual(verdicts.filter(({ allowed, status }) => !allowed || status !== 200), []);
    await master.server.start();
    await cluster.settled();
  });
});

/** So many callers that many of their keys are in slots that move. None reaches its limit, because a remembered denial would ask no master. */
const CALLERS = 100;
const LIMIT = 1_000_000;

/** Creates limiters with the same limits and keys, one for each of these connections. */
async function limitersSharing(...connections) {
  const vars = { RATE_LIMIT_GENERAL: `${LIMIT},600`, RATE_LIMIT_IP: "1000000,3600", REDIS_KEY_PREFIX: `shared${(prefixes += 1)}:` };
  return Promise.all(connections.map((connection) => limiterOf(connection, vars)));
}

let prefixes = 0;

/** Returns the units that Redis counts for each caller. */
async function counted(limiter) {
  const usages = await Promise.all(Array.from({ length: CALLERS }, (_, i) => limiter.usage("general", caller(i))));
  return usages.map(({ used }) => used);
}

/** Counts how often masters have redirected clients, by error. */
async function redirections() {
  const sums = { MOVED: 0, ASK: 0, TRYAGAIN: 0 };
  for (const text of await cluster.onMasters(["INFO", "errorstats"])) {
    for (const name of Object.keys(sums)) sums[name] += Number(new RegExp(`^errorstat_${name}:count=(\\d+)`, "m").exec(text)?.[1] ?? 0);
  }
  return sums;
}

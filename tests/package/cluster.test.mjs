/** The package on a real cluster of three masters and three replicas. */
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

const PATIENT = { REDIS_TIMEOUT: "30000" };

let cluster;
const opened = [];
before(async () => {
  cluster = await startCluster();
});
after(async () => {
  for (const end of opened.reverse()) await end();
  await cluster?.stop();
  setTimeout(endAnyway, 20_000).unref();
});

/** A connection that a client has left open holds up no other tests: the log names it. */
function endAnyway() {
  console.error("cluster.test.mjs leaves open:", process.getActiveResourcesInfo());
  process.exit();
}

const seeds = () => cluster.redises.slice(0, 2).map(({ host, port }) => ({ host, port }));

function ofIoredis({ Cluster }) {
  const client = new Cluster(seeds());
  client.on("error", () => {});
  opened.push(() => client.disconnect());
  return client;
}

async function ofNodeRedis({ createCluster }) {
  const client = createCluster({ rootNodes: seeds().map(({ host, port }) => ({ url: `redis://${host}:${port}` })) });
  client.on("error", () => {});
  await client.connect();
  opened.push(() => client.destroy());
  return client;
}

/** By name, what a limiter is created with to reach the cluster. */
const WAYS = {
  REDIS_CLUSTER: () => ({ vars: { REDIS_CLUSTER: "true", REDIS_CLUSTER_NODES: cluster.nodes } }),
  "a client of ioredis 6": () => ({ redis: ofIoredis(ioredis) }),
  "a client of ioredis 5": () => ({ redis: ofIoredis(ioredis5) }),
  "a client of redis 6": async () => ({ redis: await ofNodeRedis(redis) }),
  "a client of redis 5": async () => ({ redis: await ofNodeRedis(redis5) }),
};

async function limiterOf(way, vars) {
  const { vars: ofWay, redis: client } = await WAYS[way]();
  const limiter = createLimiter({ env: variables({ ...PATIENT, ...ofWay, ...vars }), redis: client });
  opened.push(() => limiter.close());
  return limiter;
}

const ask = (limiter, address = "192.0.2.1", path = "/") => limiter.limit(new Request(`http://127.0.0.1${path}`), { address });

/** Between two questions of a caller. */
const BREAK_MS = 100;

const caller = (i) => `198.51.${100 + (i >> 8)}.${i & 255}`;

/** Callers that ask each some times a second until `stop`, which returns how often each was admitted, and everything that was answered. */
function load(limiters, callers) {
  const verdicts = [];
  const admitted = new Array(callers).fill(0);
  let goesOn = true;
  const one = async (i, limiter) => {
    while (goesOn) {
      const { allowed, status, degraded } = await ask(limiter, caller(i));
      verdicts.push({ caller: i, allowed, status, degraded });
      if (allowed) admitted[i] += 1;
      await delay(BREAK_MS);
    }
  };
  const asking = limiters.flatMap((limiter) => Array.from({ length: callers }, (_, i) => one(i, limiter)));
  return {
    verdicts,
    async stop() {
      goesOn = false;
      await Promise.all(asking);
      return { verdicts, admitted };
    },
  };
}

for (const way of Object.keys(WAYS)) {
  describe(`a limiter in a cluster, by ${way}`, () => {
    it("holds the limits of many callers exactly, whose keys lie on all masters", async () => {
      const limiter = await limiterOf(way, { RATE_LIMIT_GENERAL: "10,600", RATE_LIMIT_IP: "1000,3600" });
      const verdicts = await Promise.all(Array.from({ length: 30 * 25 }, async (_, i) => ({ caller: i % 30, ...(await ask(limiter, caller(i % 30))) })));
      for (let i = 0; i < 30; i += 1) assert.equal(verdicts.filter((verdict) => verdict.caller === i && verdict.allowed).length, 10, caller(i));
      assert.ok(verdicts.every(({ degraded }) => !degraded));
      const { status, store } = await limiter.health();
      assert.deepEqual([status, store], ["ok", "redis"]);
    });

    it("blocks, lists and lifts, keeps events, and the application's own keys", async () => {
      const limiter = await limiterOf(way, { RATE_LIMIT_GENERAL: "5,60" });
      const own = limiter.redis;
      await own.blockIP("192.0.2.7", 600, "a reason");
      await own.blockIP("192.0.2.8");
      assert.deepEqual((await own.getBlockedIPs()).map(({ ip }) => ip).sort(), ["192.0.2.7", "192.0.2.8"]);
      const verdict = await ask(limiter, "192.0.2.7");
      assert.deepEqual([verdict.allowed, verdict.blocked], [false, true]);
      assert.equal(await own.unblockIP("192.0.2.7"), true);
      assert.equal((await ask(limiter, "192.0.2.7")).allowed, true);
      await own.logRateLimitEvent({ identifier: "192.0.2.9", policy: "general", method: "GET", path: "/x" });
      await within(until(async () => (await own.getRateLimitEvents()).length > 0), "the event", 30_000);
      for (let i = 0; i < 20; i += 1) await own.set(`k${i}`, String(i));
      assert.deepEqual([await own.get("k7"), await own.incr("k7"), await own.get("none")], ["7", 8, null]);
      assert.equal(await own.del(...Array.from({ length: 20 }, (_, i) => `k${i}`)), 20);
      assert.equal((await limiter.usage("general", "192.0.2.7")).used, 1);
      await limiter.reset("general", "192.0.2.7");
      assert.equal((await limiter.usage("general", "192.0.2.7")).used, 0);
    });

    it("counts the keys of all masters, and adds up their figures", async () => {
      const prefix = `gauges${Object.keys(WAYS).indexOf(way)}:`;
      const limiter = await limiterOf(way, { RATE_LIMIT_GENERAL: "5,600", REDIS_KEY_PREFIX: prefix, METRICS_TOKEN: "a-metrics-token-of-this-test", RATE_LIMIT_METRICS: "true" });
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
  it("has a like share of 10,000 callers on each master, within a fifth", async () => {
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
    it(`counts each request once while slots move from master to master and back, by ${one} and ${other}, and memory never has to decide`, async () => {
      const limiters = await shared(one, other);
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
      // What is admitted is counted, and is counted once.
      assert.deepEqual(await counted(limiters[0]), admitted);
    });
  }

  it("counts each request once over a failover by agreement, but for those that memory decides meanwhile", async () => {
    const limiters = await shared("REDIS_CLUSTER", "a client of redis 6");
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
      // A call that failed may have run.
      assert.ok(Math.abs(counts[i] - admitted[i]) <= byMemory, `${caller(i)}: ${admitted[i]} admitted, ${byMemory} by memory, ${counts[i]} counted`);
    }
  });

  it("holds the limit of a tenant whose callers' quotas lie in other slots, and gives back what those had taken", async () => {
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
    // In the background.
    for (let i = 0; i < 10; i += 1) {
      const expected = admitted.filter(({ address }) => address === caller(i)).length;
      await within(until(async () => (await limiters[0].usage("general", caller(i))).used === expected), `${expected} units of ${caller(i)}`);
    }
  });

  it("decides for callers of a slot that is half moved once it is whole, and until then nobody is denied", async () => {
    const limiter = await limiterOf("REDIS_CLUSTER", { RATE_LIMIT_GENERAL: "1000,600", REDIS_KEY_PREFIX: "half:", REDIS_TIMEOUT: "1000" });
    const address = "203.0.113.5";
    assert.equal((await ask(limiter, address)).degraded, false);
    const [first] = await cluster.masters();
    const slot = String(await command(first.server, ["CLUSTER", "KEYSLOT", `{${address}}`]));
    const from = await cluster.ownerOf(Number(slot));
    const to = (await cluster.masters()).find(({ id }) => id !== from.id);
    await command(to.server, ["CLUSTER", "SETSLOT", slot, "IMPORTING", from.id]);
    await command(from.server, ["CLUSTER", "SETSLOT", slot, "MIGRATING", to.id]);
    // A key of the caller exists there, and one does not: neither master can decide.
    const before = await redirections();
    for (let i = 0; i < 3; i += 1) {
      const { allowed, degraded } = await ask(limiter, address);
      assert.deepEqual([allowed, degraded], [true, true]);
    }
    assert.ok((await redirections()).TRYAGAIN > before.TRYAGAIN);
    // Callers of other slots do not notice.
    assert.equal((await ask(limiter, "203.0.113.6")).degraded, false);
    const keys = await command(from.server, ["CLUSTER", "GETKEYSINSLOT", slot, "100"]);
    await command(from.server, ["MIGRATE", to.server.host, String(to.server.port), "", "0", "5000", "KEYS", ...keys]);
    for (const { server } of [to, from]) await command(server, ["CLUSTER", "SETSLOT", slot, "NODE", to.id]);
    await within(until(async () => !(await ask(limiter, address)).degraded), "Redis to decide again", 30_000);
    await cluster.settled();
  });

  it("goes on while a master is killed: nobody below the limit is denied, and its replica decides again", async () => {
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

/** Callers of whom many have keys in slots that move. None reaches its limit: a denial that is remembered asks no master. */
const CALLERS = 100;
const LIMIT = 1_000_000;

/** Two limiters with the same limits, by different ways. */
async function shared(...ways) {
  const vars = { RATE_LIMIT_GENERAL: `${LIMIT},600`, RATE_LIMIT_IP: "1000000,3600", REDIS_KEY_PREFIX: `shared${(prefixes += 1)}:` };
  return Promise.all(ways.map((way) => limiterOf(way, vars)));
}

let prefixes = 0;

/** What has been counted of each caller. */
async function counted(limiter) {
  const usages = await Promise.all(Array.from({ length: CALLERS }, (_, i) => limiter.usage("general", caller(i))));
  return usages.map(({ used }) => used);
}

/** How often masters have sent clients elsewhere, by the error. */
async function redirections() {
  const sums = { MOVED: 0, ASK: 0, TRYAGAIN: 0 };
  for (const text of await cluster.onMasters(["INFO", "errorstats"])) {
    for (const name of Object.keys(sums)) sums[name] += Number(new RegExp(`^errorstat_${name}:count=(\\d+)`, "m").exec(text)?.[1] ?? 0);
  }
  return sums;
}

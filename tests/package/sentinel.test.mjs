/** The package with real Sentinels. While the master fails over, memory decides for a while, and no caller below its limit is denied. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { MASTER, command, startSentinels } from "../harness/sentinel.mjs";
import { within } from "../harness/within.mjs";
import { createLimiter, variables } from "./harness.mjs";

const TIMEOUT_MS = 500;

/** Each caller's limit, which none reaches during a test. */
const LIMIT = 100_000;

const CALLERS = 20;

/** Allowance for processes that the system schedules late. */
const ALLOWANCE_MS = 1500;

let deployment;
const limiters = [];
before(async () => {
  deployment = await startSentinels();
});
after(async () => {
  for (const limiter of limiters) await limiter.close();
  await deployment?.stop();
});

function limiterOf(vars) {
  const env = variables({
    REDIS_SENTINEL: "true", REDIS_SENTINEL_NAME: MASTER, REDIS_SENTINEL_NODES: deployment.nodes, REDIS_TIMEOUT: String(TIMEOUT_MS), RATE_LIMIT_GENERAL: `${LIMIT},600`,
    ADMIN_TOKEN: "an-admin-token-of-this-test", ...vars,
  });
  const limiter = createLimiter({ env });
  limiters.push(limiter);
  return limiter;
}

const ask = (limiter, address = "192.0.2.1") => limiter.limit(new Request("http://127.0.0.1/"), { address });

/** Starts callers that send requests continuously, each below its limit. `stop` ends them and returns all verdicts. */
function load(limiter) {
  const verdicts = [];
  let isRunning = true;
  const caller = async (i) => {
    while (isRunning) {
      const { allowed, status, degraded } = await ask(limiter, `198.51.100.${i}`);
      verdicts.push({ at: Date.now(), allowed, status, degraded });
      await delay(5);
    }
  };
  const callers = Array.from({ length: CALLERS }, (_, i) => caller(i));
  return {
    verdicts,
    async stop() {
      isRunning = false;
      await Promise.all(callers);
      return verdicts;
    },
  };
}

/** Waits until Redis decides again. Returns the times at which health promised the next probes. */
async function recovered(limiter) {
  const promised = new Set();
  for (;;) {
    const { status, failing } = await limiter.health();
    if (status === "ok") return [...promised];
    if (failing?.next_try) promised.add(failing.next_try);
    await delay(5);
  }
}

/** Causes a failover under load with `cause`, and asserts what callers see of it. */
async function failOver(cause) {
  const limiter = limiterOf();
  const old = await deployment.master();
  assert.equal((await ask(limiter)).degraded, false);
  const { stop } = load(limiter);
  await delay(500);
  await cause(old);
  await deployment.promoted(old);
  const promotedAt = Date.now();
  const promised = await within(recovered(limiter), "Redis to decide again", 60_000);
  const recoveredAt = Date.now();
  await delay(300);
  const verdicts = await stop();

  // Every request is admitted.
  assert.deepEqual(verdicts.filter(({ allowed, status }) => !allowed || status !== 200), []);
  // A probe in flight during the promotion may have failed after it.
  const due = Math.max(promotedAt, ...promised) + TIMEOUT_MS + ALLOWANCE_MS;
  assert.ok(promised.length <= 2, `${promised.length} waits after the promotion`);
  assert.ok(recoveredAt <= due, `Redis decided ${recoveredAt - due} ms later than health promised`);
  assert.ok(verdicts.some(({ at, degraded }) => at > recoveredAt && !degraded));
  assert.equal((await limiter.health()).store, "redis");
  return { limiter, old };
}

describe("a limiter by REDIS_SENTINEL", () => {
  it("two limiters share a limit exactly", async () => {
    const shared = { RATE_LIMIT_GENERAL: "50,600", REDIS_KEY_PREFIX: "exact:", REDIS_TIMEOUT: "30000" };
    const two = [limiterOf(shared), limiterOf({ ...shared, RATE_LIMIT_HEADERS: "ietf" })];
    const verdicts = await Promise.all(Array.from({ length: 150 }, (_, i) => ask(two[i % 2])));
    assert.equal(verdicts.filter(({ allowed }) => allowed).length, 50);
    assert.ok(verdicts.every(({ degraded }) => !degraded));
  });

  it("the limiter finds the new master within the wait that health reports after the old one is killed", async () => {
    const { limiter, old } = await failOver((master) => master.kill());
    // The new master counts what memory admitted meanwhile.
    assert.ok((await limiter.usage("general", "198.51.100.0")).used > 0);
    await old.start();
    await deployment.settled();
  });

  it("the limiter leaves a master that hangs and returns as a replica", async () => {
    const { limiter, old } = await failOver(async (master) => master.pause());
    old.resume();
    await deployment.settled();
    for (let i = 0; i < 20; i += 1) assert.equal((await ask(limiter)).degraded, false);
  });

  it("the limiter finds the new master after an operator's failover, when the old master answers READONLY", async () => {
    const { limiter } = await failOver(() => command(deployment.sentinels[0], ["SENTINEL", "FAILOVER", MASTER]));
    await deployment.settled();
    // A master that is demoted by hand keeps its connections.
    const master = await deployment.master();
    const [replica] = deployment.redises.filter((redis) => redis !== master);
    const scriptConnections = async () => [...(await command(master, ["CLIENT", "LIST", "TYPE", "normal"])).matchAll(/^id=(\d+) .*cmd=eval/gm)].map(([, id]) => id);
    assert.equal((await ask(limiter)).degraded, false);
    const before = await scriptConnections();
    assert.ok(before.length > 0);
    await command(master, ["REPLICAOF", replica.host, String(replica.port)]);
    const refused = await ask(limiter);
    assert.deepEqual([refused.allowed, refused.degraded], [true, true]);
    // The limiter closes the connection after READONLY, so the next call asks the Sentinels.
    const isClosed = async () => !(await scriptConnections()).some((id) => before.includes(id));
    await within((async () => { while (!(await isClosed())) await delay(20); })(), "the connection to the old master to be closed", 5000);
    await command(master, ["REPLICAOF", "NO", "ONE"]);
    await within(recovered(limiter), "Redis to decide again", 30_000);
  });

  it("the limiter connects by the third Sentinel while two of three are down", async () => {
    await Promise.all(deployment.sentinels.slice(0, 2).map((sentinel) => sentinel.kill()));
    const limiter = limiterOf({ REDIS_TIMEOUT: "30000" });
    assert.equal((await ask(limiter)).degraded, false);
    for (const sentinel of deployment.sentinels.slice(0, 2)) await sentinel.start();
    await deployment.settled();
  });

  it("the limiter asks the next Sentinel when one hangs, and close() does not wait for it", async () => {
    deployment.sentinels[0].pause();
    try {
      const limiter = limiterOf({});
      assert.equal((await ask(limiter)).allowed, true);
      await within(recovered(limiter), "Redis to decide", 20_000);
      const other = limiterOf({});
      const asked = ask(other);
      await within(other.close(), "the end of close()", 5000);
      assert.equal((await asked).allowed, true);
    } finally {
      deployment.sentinels[0].resume();
    }
    await deployment.settled();
  });

  it("memory decides when no Sentinel knows the master's name", async () => {
    const limiter = limiterOf({ REDIS_SENTINEL_NAME: "another" });
    // Five failures open the breaker.
    for (let i = 0; i < 5; i += 1) {
      const verdict = await ask(limiter);
      assert.deepEqual([verdict.allowed, verdict.degraded], [true, true]);
    }
    const { status, store } = await limiter.health();
    assert.deepEqual([status, store], ["degraded", "memory"]);
  });
});

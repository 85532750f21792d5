/** The package behind real Sentinels: the master fails over, and no caller notices more than memory deciding for a while. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { MASTER, command, startSentinels } from "../harness/sentinel.mjs";
import { within } from "../harness/within.mjs";
import { createLimiter, variables } from "./harness.mjs";

const TIMEOUT_MS = 500;

/** Of each caller: none sends as many while a test runs. */
const LIMIT = 100_000;

const CALLERS = 20;

/** For a process that is scheduled late. */
const LATE_MS = 1500;

let behind;
const limiters = [];
before(async () => {
  behind = await startSentinels();
});
after(async () => {
  for (const limiter of limiters) await limiter.close();
  await behind?.stop();
});

function limiterOf(vars) {
  const env = variables({
    REDIS_SENTINEL: "true", REDIS_SENTINEL_NAME: MASTER, REDIS_SENTINEL_NODES: behind.nodes, REDIS_TIMEOUT: String(TIMEOUT_MS), RATE_LIMIT_GENERAL: `${LIMIT},600`,
    ADMIN_TOKEN: "an-admin-token-of-this-test", ...vars,
  });
  const limiter = createLimiter({ env });
  limiters.push(limiter);
  return limiter;
}

const ask = (limiter, address = "192.0.2.1") => limiter.limit(new Request("http://127.0.0.1/"), { address });

/** Callers that ask without a break, each below its limit; `stop` ends them and returns what they were answered. */
function load(limiter) {
  const verdicts = [];
  let goesOn = true;
  const caller = async (i) => {
    while (goesOn) {
      const { allowed, status, degraded } = await ask(limiter, `198.51.100.${i}`);
      verdicts.push({ at: Date.now(), allowed, status, degraded });
      await delay(5);
    }
  };
  const callers = Array.from({ length: CALLERS }, (_, i) => caller(i));
  return {
    verdicts,
    async stop() {
      goesOn = false;
      await Promise.all(callers);
      return verdicts;
    },
  };
}

/** Waits until Redis decides again; when the limiter said, after `since`, that it would ask. */
async function recovered(limiter) {
  const promised = new Set();
  for (;;) {
    const { status, failing } = await limiter.health();
    if (status === "ok") return [...promised];
    if (failing?.next_try) promised.add(failing.next_try);
    await delay(5);
  }
}

/** Fails over by `how` under load, and asserts what callers see of it. */
async function failsOver(how) {
  const limiter = limiterOf();
  const old = await behind.master();
  assert.equal((await ask(limiter)).degraded, false);
  const { stop } = load(limiter);
  await delay(500);
  await how(old);
  await behind.promoted(old);
  const promotedAt = Date.now();
  const promised = await within(recovered(limiter), "Redis to decide again", 60_000);
  const recoveredAt = Date.now();
  await delay(300);
  const verdicts = await stop();

  // Nobody is denied, and nothing but an admission is ever answered.
  assert.deepEqual(verdicts.filter(({ allowed, status }) => !allowed || status !== 200), []);
  // A probe that was under way when the new master came may have failed after it.
  const due = Math.max(promotedAt, ...promised) + TIMEOUT_MS + LATE_MS;
  assert.ok(promised.length <= 2, `${promised.length} waits after the promotion`);
  assert.ok(recoveredAt <= due, `${recoveredAt - due} ms later than said`);
  assert.ok(verdicts.some(({ at, degraded }) => at > recoveredAt && !degraded));
  assert.equal((await limiter.health()).store, "redis");
  return { limiter, old };
}

describe("a limiter by REDIS_SENTINEL", () => {
  it("holds a limit exactly, shared by two limiters", async () => {
    const shared = { RATE_LIMIT_GENERAL: "50,600", REDIS_KEY_PREFIX: "exact:", REDIS_TIMEOUT: "30000" };
    const two = [limiterOf(shared), limiterOf({ ...shared, RATE_LIMIT_HEADERS: "ietf" })];
    const verdicts = await Promise.all(Array.from({ length: 150 }, (_, i) => ask(two[i % 2])));
    assert.equal(verdicts.filter(({ allowed }) => allowed).length, 50);
    assert.ok(verdicts.every(({ degraded }) => !degraded));
  });

  it("goes on while the master is killed, and finds the new one within the wait that health names", async () => {
    const { limiter, old } = await failsOver((master) => master.kill());
    // What memory admitted meanwhile is counted by the new master.
    assert.ok((await limiter.usage("general", "198.51.100.0")).used > 0);
    await old.start();
    await behind.settled();
  });

  it("goes on while the master hangs, and does not stay with it when it comes back as a replica", async () => {
    const { limiter, old } = await failsOver(async (master) => master.pause());
    old.resume();
    await behind.settled();
    for (let i = 0; i < 20; i += 1) assert.equal((await ask(limiter)).degraded, false);
  });

  it("goes on while an operator lets another master take over, where the old one answers READONLY", async () => {
    const { limiter } = await failsOver(() => command(behind.sentinels[0], ["SENTINEL", "FAILOVER", MASTER]));
    await behind.settled();
    // A replica that keeps its connections, as one does that is demoted by hand.
    const master = await behind.master();
    const [replica] = behind.redises.filter((redis) => redis !== master);
    const asking = async () => [...(await command(master, ["CLIENT", "LIST", "TYPE", "normal"])).matchAll(/^id=(\d+) .*cmd=eval/gm)].map(([, id]) => id);
    assert.equal((await ask(limiter)).degraded, false);
    const before = await asking();
    assert.ok(before.length > 0);
    await command(master, ["REPLICAOF", replica.host, String(replica.port)]);
    const refused = await ask(limiter);
    assert.deepEqual([refused.allowed, refused.degraded], [true, true]);
    // The answer has ended the connection: the next call asks the Sentinels.
    const isOver = async () => !(await asking()).some((id) => before.includes(id));
    await within((async () => { while (!(await isOver())) await delay(20); })(), "the connection's end", 5000);
    await command(master, ["REPLICAOF", "NO", "ONE"]);
    await within(recovered(limiter), "Redis to decide again", 30_000);
  });

  it("goes on while two of three Sentinels are gone, and connects by the third", async () => {
    await Promise.all(behind.sentinels.slice(0, 2).map((sentinel) => sentinel.kill()));
    const limiter = limiterOf({ REDIS_TIMEOUT: "30000" });
    assert.equal((await ask(limiter)).degraded, false);
    for (const sentinel of behind.sentinels.slice(0, 2)) await sentinel.start();
    await behind.settled();
  });

  it("asks the next Sentinel where one hangs, and close() does not wait for it", async () => {
    behind.sentinels[0].pause();
    try {
      const limiter = limiterOf({});
      assert.equal((await ask(limiter)).allowed, true);
      await within(recovered(limiter), "Redis to decide", 20_000);
      const other = limiterOf({});
      const asked = ask(other);
      await within(other.close(), "the end of close()", 5000);
      assert.equal((await asked).allowed, true);
    } finally {
      behind.sentinels[0].resume();
    }
    await behind.settled();
  });

  it("lets memory decide while no Sentinel knows the master's name", async () => {
    const limiter = limiterOf({ REDIS_SENTINEL_NAME: "another" });
    // As many failures open the breaker.
    for (let i = 0; i < 5; i += 1) {
      const verdict = await ask(limiter);
      assert.deepEqual([verdict.allowed, verdict.degraded], [true, true]);
    }
    const { status, store } = await limiter.health();
    assert.deepEqual([status, store], ["degraded", "memory"]);
  });
});

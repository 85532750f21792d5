/** Runs the code of the migration guides before and after a migration. Both limit, and their guarantees differ as the guides say. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import path from "node:path";
import { startStandIn } from "../upstash/stand-in.mjs";
import { filesOf, startModule, startServer, startWorker } from "./guides.mjs";
import { project } from "./scratch.mjs";

/** Returns the seconds until the next multiple of a window since the epoch, by which tests advance a program's clock. */
const untilWhole = (seconds) => seconds - ((Date.now() / 1000) % seconds);

/** Files of guides that no test has run yet. The last test asserts that none remains. */
const unused = new Set();

/** Writes a guide's files next to the packages that they import, for the time of the suite. Returns a function from a name to its path. */
function guide(name, packages) {
  const cleanups = [];
  let folder;
  before(async () => {
    const files = filesOf(name);
    folder = await project({ after: (cleanup) => cleanups.push(cleanup) }, files, packages);
    for (const file of Object.keys(files)) unused.add(path.join(folder, file));
  });
  after(() => cleanups.forEach((cleanup) => cleanup()));
  return (file) => {
    unused.delete(path.join(folder, file));
    return path.join(folder, file);
  };
}

/** Counts how many of these tries are admitted. */
async function admitted(tries, tryOnce) {
  let count = 0;
  for (let i = 0; i < tries; i++) count += Number(await tryOnce());
  return count;
}

const VERSIONS = ["before", "after"];

describe("migration from @upstash/ratelimit", () => {
  const file = guide("upstash-ratelimit", ["@upstash/ratelimit", "@upstash/redis"]);
  let standIn, env;
  before(async () => {
    standIn = await startStandIn();
    env = { UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token, VERCEL: "1", UPSTASH_DISABLE_TELEMETRY: "1", REDIS_TIMEOUT: "30000" };
  });
  after(() => standIn?.stop());
  beforeEach(() => standIn.reset());

  /** Starts a handler at the beginning of one of @upstash/ratelimit's windows. */
  async function handler(t, name, ip = "192.0.2.1") {
    const program = await startModule(t, file(`${name}.mjs`), env);
    await program.advance(untilWhole(60));
    const post = () => program.call("POST", { request: { url: "https://shop.example/", method: "POST", headers: { "x-real-ip": ip, "x-forwarded-for": String(Math.random()) } } });
    return { program, post, passes: async () => (await post()).status === 200 };
  }

  for (const name of VERSIONS) {
    it(`the code ${name} limits an address and reports what remains`, async (t) => {
      const { post, passes } = await handler(t, name);
      const first = await post();
      assert.deepEqual([first.status, first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]], [200, "10", "9"]);
      assert.equal(await admitted(11, passes), 9);
      assert.equal((await post()).status, 429);
    });

    it(`the code ${name} limits a user by points`, async (t) => {
      const { call } = await startModule(t, file(`cost-${name}.mjs`), env);
      assert.equal(await call("mayExport", "ada", 60_000), true);
      assert.equal(await call("mayExport", "ada", 40_000), true);
      assert.equal(await call("mayExport", "ada", 1), false);
      assert.equal(await call("mayExport", "bob", 1), true);
    });
  }

  it("a window can exceed the limit before the migration, and never afterwards", async (t) => {
    const within = {};
    for (const name of VERSIONS) {
      const { program, passes } = await handler(t, name);
      await program.advance(59);
      const first = await admitted(10, passes);
      await program.advance(55);
      within[name] = first + (await admitted(20, passes));
    }
    assert.deepEqual(within, { before: 20, after: 10 });
  });

  it("a caller idle for a minute has only part of its limit before the migration, and all of it afterwards", async (t) => {
    const passed = {};
    for (const name of VERSIONS) {
      const { program, passes } = await handler(t, name);
      await program.advance(10);
      await admitted(10, passes);
      await program.advance(69);
      passed[name] = await admitted(12, passes);
    }
    assert.deepEqual(passed, { before: 4, after: 10 });
  });

  it("a denied cost is counted before the migration, and not afterwards", async (t) => {
    const next = {};
    for (const name of VERSIONS) {
      const { call } = await startModule(t, file(`cost-${name}.mjs`), { ...env, REDIS_KEY_PREFIX: "cost:" });
      assert.equal(await call("mayExport", "ada", 101_000), false);
      next[name] = await call("mayExport", "ada", 1000);
    }
    assert.deepEqual(next, { before: false, after: true });
  });

  it("an unreachable Redis is an error before the migration, and memory decides afterwards", async (t) => {
    const outcomes = {};
    for (const name of VERSIONS) {
      const { call } = await startModule(t, file(`cost-${name}.mjs`), { ...env, UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1", REDIS_TIMEOUT: "1000" });
      outcomes[name] = await call("mayExport", "ada", 1000).catch(() => "an error");
      if (name === "after") assert.equal(await admitted(200, () => call("mayExport", "ada", 1000)), 119);
    }
    assert.deepEqual(outcomes, { before: "an error", after: true });
  });
});

describe("migration from express-rate-limit", () => {
  const file = guide("express-rate-limit", ["express", "express-rate-limit"]);

  async function server(t, name) {
    const program = await startServer(t, file(`${name}.mjs`));
    const get = (ip = "192.0.2.1") => program.ask({ headers: { "X-Forwarded-For": `203.0.113.${Math.floor(256 * Math.random())}, ${ip}` } });
    const login = (ip = "192.0.2.1") => program.ask({ method: "POST", path: "/login", headers: { "X-Forwarded-For": ip } });
    return { program, get, login, passes: async () => (await get()).status === 200 };
  }

  for (const name of VERSIONS) {
    it(`the code ${name} limits an address behind a proxy, and logins more tightly`, async (t) => {
      const { get, login, passes } = await server(t, name);
      const first = await get();
      assert.deepEqual([first.status, first.text(), first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]], [200, "Hello", "10", "9"]);
      const logins = [];
      for (let i = 0; i < 4; i++) logins.push((await login()).status);
      assert.deepEqual(logins, [200, 200, 200, 429]);
      await admitted(10, passes);
      const denied = await get();
      assert.equal(denied.status, 429);
      assert.ok(Number(denied.headers["retry-after"]) > 0);
      assert.equal((await get("192.0.2.2")).status, 200);
    });
  }

  it("a window can exceed the limit before the migration, and never afterwards", async (t) => {
    const within = {};
    for (const name of VERSIONS) {
      const { program, passes } = await server(t, name);
      assert.equal(await passes(), true);
      await program.advance(59);
      const first = await admitted(9, passes);
      await program.advance(2);
      within[name] = first + (await admitted(20, passes));
    }
    assert.deepEqual(within, { before: 19, after: 10 });
  });

  it("denied logins use up the home page's limit before the migration, and not afterwards", async (t) => {
    const home = {};
    for (const name of VERSIONS) {
      const { login, get } = await server(t, name);
      for (let i = 0; i < 10; i++) await login();
      home[name] = (await get()).status;
    }
    assert.deepEqual(home, { before: 429, after: 200 });
  });
});

describe("migration from rate-limiter-flexible", () => {
  const file = guide("rate-limiter-flexible", ["rate-limiter-flexible"]);

  async function module(t, name) {
    const program = await startModule(t, file(`${name}.mjs`));
    const tries = (points = 1, user = "ada") => program.call("mayTry", user, points);
    return { program, tries, passes: async () => (await tries()).allowed };
  }

  for (const name of VERSIONS) {
    it(`the code ${name} limits a user name and blocks it for ten minutes`, async (t) => {
      const { program, tries } = await module(t, name);
      const seen = [];
      for (let i = 0; i < 6; i++) seen.push(await tries());
      assert.deepEqual(seen.map(({ allowed, remaining }) => [allowed, remaining]).slice(0, 5), [[true, 4], [true, 3], [true, 2], [true, 1], [true, 0]]);
      assert.deepEqual(seen[5].allowed, false);
      assert.equal(seen[5].retryAfter, 600);
      assert.equal((await tries(1, "bob")).allowed, true);
      await program.advance(590);
      assert.equal((await tries()).allowed, false);
      await program.advance(20);
      assert.equal((await tries()).allowed, true);
    });
  }

  it("a window can exceed the limit before the migration, and never afterwards", async (t) => {
    const within = {};
    for (const name of VERSIONS) {
      const { program, passes } = await module(t, name);
      assert.equal(await passes(), true);
      await program.advance(59);
      const first = await admitted(4, passes);
      await program.advance(2);
      within[name] = first + (await admitted(name === "before" ? 5 : 1, passes));
    }
    assert.deepEqual(within, { before: 9, after: 5 });
  });

  it("an attempt above the limit blocks before the migration, and counts nothing afterwards", async (t) => {
    const next = {};
    for (const name of VERSIONS) {
      const { tries, passes } = await module(t, name);
      const { allowed, retryAfter } = await tries(6);
      next[name] = [allowed, retryAfter, await passes()];
    }
    assert.deepEqual(next, { before: [false, 600, false], after: [false, undefined, true] });
  });
});

describe("migration from hono-rate-limiter", () => {
  const file = guide("hono-rate-limiter", ["@hono/node-server", "hono", "hono-rate-limiter"]);

  async function server(t, name) {
    const program = await startServer(t, file(`${name}.mjs`));
    const get = () => program.ask({ headers: { "X-Forwarded-For": String(Math.random()), "CF-Connecting-IP": `192.0.2.${Math.floor(256 * Math.random())}` } });
    return { program, get, passes: async () => (await get()).status === 200 };
  }

  for (const name of VERSIONS) {
    it(`the code ${name} limits an address, and no header changes the address`, async (t) => {
      const { get, passes } = await server(t, name);
      const first = await get();
      const remaining = first.headers["ratelimit-remaining"] ?? first.headers["x-ratelimit-remaining"];
      assert.deepEqual([first.status, first.text(), remaining], [200, "Hello", "9"]);
      assert.equal(await admitted(20, passes), 9);
      assert.ok(Number((await get()).headers["retry-after"]) > 0);
    });
  }

  it("a window can exceed the limit before the migration, and never afterwards", async (t) => {
    const within = {};
    for (const name of VERSIONS) {
      const { program, passes } = await server(t, name);
      assert.equal(await passes(), true);
      await program.advance(59);
      const first = await admitted(9, passes);
      await program.advance(2);
      within[name] = first + (await admitted(20, passes));
    }
    assert.deepEqual(within, { before: 19, after: 10 });
  });
});

describe("migration from Cloudflare's binding", () => {
  const file = guide("cloudflare-rate-limiting", []);
  let standIn;
  before(async () => (standIn = await startStandIn()));
  after(() => standIn?.stop());

  /** Starts a Worker in a separate process, which plays one of Cloudflare's locations. */
  async function location(t, name) {
    const folder = path.dirname(file(`${name}/wrangler.toml`));
    file(`${name}/worker.mjs`);
    const vars = { UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token, REDIS_TIMEOUT: "30000" };
    const ask = await startWorker(t, folder, name === "after" ? vars : {});
    return (ip = "192.0.2.1") => ask({ headers: { "CF-Connecting-IP": ip } });
  }

  it("each location has its own limit before the migration, and all share one afterwards", async (t) => {
    const passed = {};
    for (const name of VERSIONS) {
      const [here, there] = await Promise.all([location(t, name), location(t, name)]);
      passed[name] = [await admitted(15, async () => (await here()).status === 200), await admitted(15, async () => (await there()).status === 200)];
      // A window of the binding may end meanwhile. Then it admits ten more requests.
      let denied = await here();
      for (let i = 0; i < 10 && denied.status === 200; i++) denied = await here();
      assert.deepEqual([denied.status, denied.headers["retry-after"] !== undefined], [429, name === "after"]);
      assert.equal((await here("192.0.2.2")).status, 200);
    }
    assert.ok(passed.before.every((count) => count >= 10), JSON.stringify(passed));
    assert.deepEqual(passed.after, [10, 0]);
  });
});

it("every code block of a guide that names a file was run", () => {
  assert.deepEqual([...unused], []);
});

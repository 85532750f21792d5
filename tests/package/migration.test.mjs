/** The code of the migration guides, before and after: both limit, and they differ in guarantee as the guides say. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import path from "node:path";
import { startStandIn } from "../upstash/stand-in.mjs";
import { filesOf, startModule, startServer, startWorker } from "./guides.mjs";
import { project } from "./scratch.mjs";

/** A time that is a whole number of windows after the epoch: a program's clock is moved to it. */
const untilWhole = (seconds) => seconds - ((Date.now() / 1000) % seconds);

/** Files of guides that no test has run yet: a block that none runs may not work. */
const unused = new Set();

/** Writes a guide's files next to the packages that they import; the path of each by its name. They are removed after the suite. */
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

/** How many of so many tries are admitted. */
async function admitted(tries, one) {
  let count = 0;
  for (let i = 0; i < tries; i++) count += Number(await one());
  return count;
}

const LIBRARIES = ["before", "after"];

describe("from @upstash/ratelimit", () => {
  const file = guide("upstash-ratelimit", ["@upstash/ratelimit", "@upstash/redis"]);
  let standIn, env;
  before(async () => {
    standIn = await startStandIn();
    env = { UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token, VERCEL: "1", UPSTASH_DISABLE_TELEMETRY: "1", REDIS_TIMEOUT: "30000" };
  });
  after(() => standIn?.stop());
  beforeEach(() => standIn.reset());

  /** A handler, at the beginning of a window of theirs, and what asks it. */
  async function handler(t, name, ip = "192.0.2.1") {
    const program = await startModule(t, file(`${name}.mjs`), env);
    await program.advance(untilWhole(60));
    const post = () => program.call("POST", { request: { url: "https://shop.example/", method: "POST", headers: { "x-real-ip": ip, "x-forwarded-for": String(Math.random()) } } });
    return { program, post, passes: async () => (await post()).status === 200 };
  }

  for (const name of LIBRARIES) {
    it(`${name}: limits an address, and says what is left`, async (t) => {
      const { post, passes } = await handler(t, name);
      const first = await post();
      assert.deepEqual([first.status, first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]], [200, "10", "9"]);
      assert.equal(await admitted(11, passes), 9);
      assert.equal((await post()).status, 429);
    });

    it(`${name}: a user has points`, async (t) => {
      const { call } = await startModule(t, file(`cost-${name}.mjs`), env);
      assert.equal(await call("mayExport", "ada", 60_000), true);
      assert.equal(await call("mayExport", "ada", 40_000), true);
      assert.equal(await call("mayExport", "ada", 1), false);
      assert.equal(await call("mayExport", "bob", 1), true);
    });
  }

  it("the limit is exceeded before, and holds after", async (t) => {
    const within = {};
    for (const name of LIBRARIES) {
      const { program, passes } = await handler(t, name);
      await program.advance(59);
      const first = await admitted(10, passes);
      await program.advance(55);
      within[name] = first + (await admitted(20, passes));
    }
    assert.deepEqual(within, { before: 20, after: 10 });
  });

  it("a caller without a request in the last minute has a part of the limit before, and all of it after", async (t) => {
    const passed = {};
    for (const name of LIBRARIES) {
      const { program, passes } = await handler(t, name);
      await program.advance(10);
      await admitted(10, passes);
      await program.advance(69);
      passed[name] = await admitted(12, passes);
    }
    assert.deepEqual(passed, { before: 4, after: 10 });
  });

  it("a denied cost is counted before, and not after", async (t) => {
    const next = {};
    for (const name of LIBRARIES) {
      const { call } = await startModule(t, file(`cost-${name}.mjs`), { ...env, REDIS_KEY_PREFIX: "cost:" });
      assert.equal(await call("mayExport", "ada", 101_000), false);
      next[name] = await call("mayExport", "ada", 1000);
    }
    assert.deepEqual(next, { before: false, after: true });
  });

  it("a Redis that is gone is an error before, and memory decides after", async (t) => {
    const outcomes = {};
    for (const name of LIBRARIES) {
      const { call } = await startModule(t, file(`cost-${name}.mjs`), { ...env, UPSTASH_REDIS_REST_URL: "http://127.0.0.1:1", REDIS_TIMEOUT: "1000" });
      outcomes[name] = await call("mayExport", "ada", 1000).catch(() => "an error");
      if (name === "after") assert.equal(await admitted(200, () => call("mayExport", "ada", 1000)), 119);
    }
    assert.deepEqual(outcomes, { before: "an error", after: true });
  });
});

describe("from express-rate-limit", () => {
  const file = guide("express-rate-limit", ["express", "express-rate-limit"]);

  async function server(t, name) {
    const program = await startServer(t, file(`${name}.mjs`));
    const get = (ip = "192.0.2.1") => program.ask({ headers: { "X-Forwarded-For": `203.0.113.${Math.floor(256 * Math.random())}, ${ip}` } });
    const login = (ip = "192.0.2.1") => program.ask({ method: "POST", path: "/login", headers: { "X-Forwarded-For": ip } });
    return { program, get, login, passes: async () => (await get()).status === 200 };
  }

  for (const name of LIBRARIES) {
    it(`${name}: limits an address behind a proxy, and logins further`, async (t) => {
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

  it("the limit is exceeded before, and holds after", async (t) => {
    const within = {};
    for (const name of LIBRARIES) {
      const { program, passes } = await server(t, name);
      assert.equal(await passes(), true);
      await program.advance(59);
      const first = await admitted(9, passes);
      await program.advance(2);
      within[name] = first + (await admitted(20, passes));
    }
    assert.deepEqual(within, { before: 19, after: 10 });
  });

  it("denied logins use up the home page before, and not after", async (t) => {
    const home = {};
    for (const name of LIBRARIES) {
      const { login, get } = await server(t, name);
      for (let i = 0; i < 10; i++) await login();
      home[name] = (await get()).status;
    }
    assert.deepEqual(home, { before: 429, after: 200 });
  });
});

describe("from rate-limiter-flexible", () => {
  const file = guide("rate-limiter-flexible", ["rate-limiter-flexible"]);

  async function module(t, name) {
    const program = await startModule(t, file(`${name}.mjs`));
    const tries = (points = 1, user = "ada") => program.call("mayTry", user, points);
    return { program, tries, passes: async () => (await tries()).allowed };
  }

  for (const name of LIBRARIES) {
    it(`${name}: limits a name, and blocks it for ten minutes`, async (t) => {
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

  it("the limit is exceeded before, and holds after", async (t) => {
    const within = {};
    for (const name of LIBRARIES) {
      const { program, passes } = await module(t, name);
      assert.equal(await passes(), true);
      await program.advance(59);
      const first = await admitted(4, passes);
      await program.advance(2);
      within[name] = first + (await admitted(name === "before" ? 5 : 1, passes));
    }
    assert.deepEqual(within, { before: 9, after: 5 });
  });

  it("an attempt that can never fit blocks before, and counts nothing after", async (t) => {
    const next = {};
    for (const name of LIBRARIES) {
      const { tries, passes } = await module(t, name);
      const { allowed, retryAfter } = await tries(6);
      next[name] = [allowed, retryAfter, await passes()];
    }
    assert.deepEqual(next, { before: [false, 600, false], after: [false, undefined, true] });
  });
});

describe("from hono-rate-limiter", () => {
  const file = guide("hono-rate-limiter", ["@hono/node-server", "hono", "hono-rate-limiter"]);

  async function server(t, name) {
    const program = await startServer(t, file(`${name}.mjs`));
    const get = () => program.ask({ headers: { "X-Forwarded-For": String(Math.random()), "CF-Connecting-IP": `192.0.2.${Math.floor(256 * Math.random())}` } });
    return { program, get, passes: async () => (await get()).status === 200 };
  }

  for (const name of LIBRARIES) {
    it(`${name}: limits an address, and no header makes another of it`, async (t) => {
      const { get, passes } = await server(t, name);
      const first = await get();
      const remaining = first.headers["ratelimit-remaining"] ?? first.headers["x-ratelimit-remaining"];
      assert.deepEqual([first.status, first.text(), remaining], [200, "Hello", "9"]);
      assert.equal(await admitted(20, passes), 9);
      assert.ok(Number((await get()).headers["retry-after"]) > 0);
    });
  }

  it("the limit is exceeded before, and holds after", async (t) => {
    const within = {};
    for (const name of LIBRARIES) {
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

describe("from Cloudflare's binding", () => {
  const file = guide("cloudflare-rate-limiting", []);
  let standIn;
  before(async () => (standIn = await startStandIn()));
  after(() => standIn?.stop());

  /** One location: a process of its own. */
  async function location(t, name) {
    const folder = path.dirname(file(`${name}/wrangler.toml`));
    file(`${name}/worker.mjs`);
    const vars = { UPSTASH_REDIS_REST_URL: standIn.url, UPSTASH_REDIS_REST_TOKEN: standIn.token, REDIS_TIMEOUT: "30000" };
    const ask = await startWorker(t, folder, name === "after" ? vars : {});
    return (ip = "192.0.2.1") => ask({ headers: { "CF-Connecting-IP": ip } });
  }

  it("each location has a limit before, and all share one after", async (t) => {
    const passed = {};
    for (const name of LIBRARIES) {
      const [here, there] = await Promise.all([location(t, name), location(t, name)]);
      passed[name] = [await admitted(15, async () => (await here()).status === 200), await admitted(15, async () => (await there()).status === 200)];
      // A window of the binding's may end in between: then it admits ten more.
      let denied = await here();
      for (let i = 0; i < 10 && denied.status === 200; i++) denied = await here();
      assert.deepEqual([denied.status, denied.headers["retry-after"] !== undefined], [429, name === "after"]);
      assert.equal((await here("192.0.2.2")).status, 200);
    }
    assert.ok(passed.before.every((count) => count >= 10), JSON.stringify(passed));
    assert.deepEqual(passed.after, [10, 0]);
  });
});

it("each block of a guide that names a file has been run", () => {
  assert.deepEqual([...unused], []);
});

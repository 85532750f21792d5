/**
 * Variables that change, and the types in which they arrive. Native tests show what a variable means. These show that the
 * Worker reads the variables from the platform's environment object, and reads them again when that object is another one.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { Miniflare } from "miniflare";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { startStandIn } from "../upstash/stand-in.mjs";

const CALLER = "198.18.9.1";
const build = (name) => fileURLToPath(new URL(`../../build/${name}`, import.meta.url));

/** Passes the limiter one of several environment objects, each always the same object, all in one isolate. */
const SWITCH = `
import limiter from "./index.js";
const objects = new Map();
export default {
  fetch(request, env, context) {
    const name = request.headers.get("X-Variant") ?? "";
    if (!objects.has(name)) objects.set(name, { ...env, ...env.VARIANTS[name] });
    return limiter.fetch(request, objects.get(name), context);
  },
};`;

const LIMITER = [
  { type: "ESModule", path: "index.js", contents: readFileSync(build("index.js"), "utf8") },
  { type: "CompiledWasm", path: "index_bg.wasm", contents: readFileSync(build("index_bg.wasm")) },
  { type: "ESModule", path: "page_files.js", contents: readFileSync(build("page_files.js"), "utf8") },
];
/** The date of wrangler.toml. With `cf: false` Miniflare requests nothing from Cloudflare. */
const [, compatibilityDate] = /^compatibility_date = "(.*)"$/m.exec(readFileSync(fileURLToPath(new URL("../../wrangler.toml", import.meta.url)), "utf8"));
const OPTIONS = { compatibilityDate, cf: false };

const stops = [];
afterEach(async () => {
  for (const stop of stops.splice(0).reverse()) await stop();
});

function miniflare(options) {
  const started = new Miniflare({ ...OPTIONS, ...options });
  stops.push(() => started.dispose());
  return started;
}

async function ask(limiter, { variant, path = "/" } = {}) {
  const headers = { "CF-Connecting-IP": CALLER, ...(variant && { "X-Variant": variant }) };
  const { status, headers: { "x-ratelimit-limit": limit, "x-ratelimit-remaining": remaining } } = await send(String(await limiter.ready), { path, headers });
  return [status, limit, remaining].join(" ");
}

describe("a changed variable", () => {
  it("is in force with the next environment object, in the same isolate", async () => {
    const limiter = miniflare({
      modules: [{ type: "ESModule", path: "switch.js", contents: SWITCH }, ...LIMITER],
      bindings: {
        RATE_LIMIT_GENERAL: "2,3600",
        VARIANTS: { wider: { RATE_LIMIT_GENERAL: "5,3600" }, silent: { RATE_LIMIT_HEADERS: "none" }, off: { RATE_LIMIT_ENABLED: "false" } },
      },
    });
    // The configuration is compiled once for one object. Otherwise memory would start afresh at each request.
    assert.equal(await ask(limiter), "200 2 1");
    assert.equal(await ask(limiter), "200 2 0");
    assert.equal(await ask(limiter), "429 2 0");
    assert.equal(await ask(limiter, { variant: "wider" }), "200 5 4");
    assert.equal(await ask(limiter, { variant: "wider" }), "200 5 3");
    assert.equal(await ask(limiter, { variant: "silent" }), "200  ");
    assert.equal(await ask(limiter, { variant: "off" }), "200  ");
    assert.equal((await ask(limiter)).split(" ")[1], "2");
  });

  it("leaves counts in Redis unchanged, and copies them to no other key", async () => {
    const standIn = await startStandIn();
    stops.push(() => standIn.stop());
    const limiter = miniflare({
      modules: [{ type: "ESModule", path: "switch.js", contents: SWITCH }, ...LIMITER],
      bindings: {
        RATE_LIMIT_GENERAL: "2,3600",
        UPSTASH_REDIS_REST_URL: standIn.url,
        UPSTASH_REDIS_REST_TOKEN: standIn.token,
        REDIS_TIMEOUT: 30_000,
        VARIANTS: {
          wider: { RATE_LIMIT_GENERAL: "5,3600" },
          prefixed: { REDIS_KEY_PREFIX: "other:" },
          memory: { REDIS_ENABLED: false },
          bucket: { RATE_LIMIT_POLICIES: { general: { algorithm: "token-bucket" } } },
        },
      },
    });
    for (const expected of ["200 2 1", "200 2 0", "429 2 0"]) assert.equal(await ask(limiter), expected);
    // The isolate remembers the denial for the other object. The units consumed in Redis count for both.
    assert.equal(await ask(limiter, { variant: "wider" }), "200 5 2");
    assert.equal(await ask(limiter), "429 2 0");
    assert.equal(await ask(limiter, { variant: "prefixed" }), "200 2 1");
    assert.equal(await ask(limiter, { variant: "memory" }), "200 2 1");
    // Each version of the policy counts in the state of its own algorithm, and leaves the other's alone.
    assert.equal(await ask(limiter, { variant: "bucket" }), "200 2 1");
    assert.equal(await ask(limiter, { variant: "wider" }), "200 5 1");
    assert.equal(await ask(limiter, { variant: "bucket" }), "200 2 0");
    const keys = await (await standIn.redis.client()).keys("*");
    assert.deepEqual(keys.sort(), ["other:general", "other:ip", "ratelimit:general", "ratelimit:ip"].map((key) => `${key}:${CALLER}`));
  });

  it("is in force after a reload", async () => {
    const modules = LIMITER;
    const limiter = miniflare({ modules, bindings: { RATE_LIMIT_GENERAL: "1,3600" } });
    assert.equal(await ask(limiter), "200 1 0");
    assert.equal(await ask(limiter), "429 1 0");
    await limiter.setOptions({ ...OPTIONS, modules, bindings: { RATE_LIMIT_GENERAL: "7,3600" } });
    assert.equal(await ask(limiter), "200 7 6");
  });
});

describe("types of variables", () => {
  const TABLES = {
    RATE_LIMIT_POLICIES: { bulk: { algorithm: "token-bucket", burst: 4 }, general: { mode: "shadow" } },
    RATE_LIMIT_ROUTES: [{ path: "/bulk/**", methods: ["GET"], policies: ["bulk"], cost: 3 }],
  };
  const VARS = { RATE_LIMIT_GENERAL: "90,3600", RATE_LIMIT_BULK: "10,86400", RATE_LIMIT_IP: "off" };

  const forms = {
    objects: TABLES,
    "JSON text": Object.fromEntries(Object.entries(TABLES).map(([name, table]) => [name, JSON.stringify(table)])),
    "JSON text between blanks": Object.fromEntries(Object.entries(TABLES).map(([name, table]) => [name, `\n ${JSON.stringify(table, null, 2)}\n`])),
  };
  for (const [form, tables] of Object.entries(forms)) {
    it(`tables may be given as ${form}`, async () => {
      const workerd = await startWorkerd({ vars: { ...VARS, ...tables } });
      stops.push(() => workerd.stop());
      const limiter = { ready: workerd.url };
      // The burst is 4 and the cost 3. One unit is left, which is too few for a second request.
      assert.equal(await ask(limiter, { path: "/bulk/load" }), "200 4 1");
      assert.equal(await ask(limiter, { path: "/bulk/load" }), "429 4 1");
      const { headers } = await send(workerd.url, { headers: { "CF-Connecting-IP": CALLER } });
      assert.match(headers["x-ratelimit-shadow"], /general/);
      assert.equal(headers["x-ratelimit-limit"], undefined);
      assert.equal(workerd.logs(), "");
    });
  }

  it("a table of another type is an error, the stricter reading is in force, and its value is not logged", async () => {
    for (const bad of ["planted", "[planted", '"planted"', 17, true]) {
      const workerd = await startWorkerd({ vars: { ...VARS, RATE_LIMIT_ROUTES: bad, RATE_LIMIT_POLICIES: bad } });
      stops.push(() => workerd.stop());
      const { headers } = await send(workerd.url, { headers: { "CF-Connecting-IP": CALLER } });
      assert.equal(headers["x-ratelimit-type"], "misconfigured");
      await workerd.logged(/RATE_LIMIT_ROUTES: must be a list/);
      await workerd.logged(/RATE_LIMIT_POLICIES: must be a table/);
      assert.doesNotMatch(workerd.logs(), /planted|17/);
    }
  });

  it("numbers and flags may be given as JSON or as text", async () => {
    const vars = [{ DEFAULT_RATE_LIMIT_MAX: 4, DEFAULT_RATE_LIMIT_WINDOW: 3600 }, { DEFAULT_RATE_LIMIT_MAX: "4", DEFAULT_RATE_LIMIT_WINDOW: "3600" }];
    for (const given of vars) {
      const workerd = await startWorkerd({ vars: { ...given, RATE_LIMIT_IP: "off" } });
      stops.push(() => workerd.stop());
      assert.equal(await ask({ ready: workerd.url }), "200 4 3");
      assert.equal(workerd.logs(), "");
    }
  });

  it("a token that is not text opens nothing, and neither does its JSON text", async () => {
    for (const [value, guess] of [[true, "true"], [12345, "12345"], [["planted"], '["planted"]']]) {
      const workerd = await startWorkerd({ vars: { ADMIN_TOKEN: value, RATE_LIMIT_BYPASS_TOKEN: value, RATE_LIMIT_GENERAL: "1,3600" } });
      stops.push(() => workerd.stop());
      const headers = { "CF-Connecting-IP": CALLER, Authorization: `Bearer ${guess}`, "X-RateLimit-Bypass": guess };
      assert.equal((await send(workerd.url, { path: "/_limiter/policies", headers })).status, 404);
      assert.equal((await send(workerd.url, { headers })).status, 200);
      assert.equal((await send(workerd.url, { headers })).status, 429);
      await workerd.logged(/ADMIN_TOKEN: must be text/);
      assert.doesNotMatch(workerd.logs(), /planted|12345/);
    }
  });
});

describe("a header that is a policy's key", () => {
  it("is charged for every line, although the runtime joins lines", async () => {
    const vars = { RATE_LIMIT_API: "2,3600", RATE_LIMIT_IP: "off", RATE_LIMIT_POLICIES: { api: { key: "header:X-Api-Key" } }, RATE_LIMIT_ROUTES: [{ path: "/**", policies: ["api"] }] };
    const workerd = await startWorkerd({ vars });
    stops.push(() => workerd.stop());
    const status = async (place, lines) => (await send(workerd.url, { headers: { "CF-Connecting-IP": `198.18.9.${place}`, "X-Api-Key": lines } })).status;
    assert.equal(await status(1, ["key"]), 200);
    assert.equal(await status(2, ["other", "key "]), 200);
    assert.equal(await status(3, ["key", "fresh"]), 429);
    assert.equal(await status(4, ["fresh", " key"]), 429);
    assert.equal(await status(5, ["a", "b", "c", "d", "e"]), 400);
    assert.equal(await status(6, ["fresh"]), 200);
  });
});

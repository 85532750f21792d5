/** The Worker and the package on one Redis, with the same variables, keys and answers. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { PREFIX, WINDOW, startShared } from "../harness/limited.mjs";
import { send } from "../harness/request.mjs";
import { createLimiter } from "./harness.mjs";

const ADDRESS = "192.0.2.1";

let shared, worker, limiter, vars;
before(async () => {
  shared = await startShared();
  vars = {
    RATE_LIMIT_GENERAL: `100,${WINDOW}`, RATE_LIMIT_IP: "off", RATE_LIMIT_LOGIN: "3,60,600", RATE_LIMIT_ROUTES: '[{"path":"/login","policies":["login"]}]',
    ADMIN_TOKEN: "an-admin-token-of-this-test",
  };
  worker = await shared.limiter(vars);
  limiter = createLimiter({
    env: {
      ...vars, UPSTASH_REDIS_REST_URL: shared.standIn.url, UPSTASH_REDIS_REST_TOKEN: shared.standIn.token, REDIS_KEY_PREFIX: PREFIX, REDIS_TIMEOUT: "30000",
      RATE_LIMIT_METRICS: "false",
    },
  });
});
after(() => shared?.stop());

const byWorker = (path = "/", headers = {}) => send(worker.url, { path, headers: { "CF-Connecting-IP": ADDRESS, ...headers } });
const byPackage = (path = "/", headers = {}) => limiter.limit(new Request(`http://127.0.0.1${path}`, { headers }), { address: ADDRESS });

describe("the Worker and the package", () => {
  it("a shared limit holds exactly when each handles half of the requests", async () => {
    const answers = [];
    // In waves, because either could be faster.
    for (let wave = 0; wave < 30; wave += 1) answers.push(...(await Promise.all(Array.from({ length: 10 }, (_, i) => (i % 2 ? byWorker() : byPackage())))));
    const admitted = answers.filter(({ status }) => status === 200);
    assert.equal(admitted.length, 100);
    const workers = admitted.filter(({ rawHeaders }) => rawHeaders).length;
    assert.ok(workers >= 25 && workers <= 75, `the Worker admitted ${workers} of 100`);
    assert.equal((await limiter.usage("general", ADDRESS)).remaining, 0);
  });

  it("a denial has the same status, headers and body from both", async () => {
    for (let i = 0; i < 3; i += 1) await byWorker("/login");
    const forms = ["application/json", "application/problem+json", "text/html"];
    for (const Accept of forms) {
      const [workerAnswer, packageAnswer] = [await byWorker("/login", { Accept }), (await byPackage("/login", { Accept })).response];
      const packageHeaders = Object.fromEntries(packageAnswer.headers);
      const workerHeaders = Object.fromEntries(Object.entries(workerAnswer.headers).filter(([name]) => !["content-length", "connection", "date", "keep-alive"].includes(name)));
      const withoutTimes = (text) => text.replaceAll(/\d{3,}/g, "N").replaceAll(/\d+ (minutes|seconds)/g, "N");
      assert.deepEqual(Object.keys(packageHeaders).sort(), Object.keys(workerHeaders).sort(), Accept);
      assert.equal(packageAnswer.status, workerAnswer.status);
      assert.equal(withoutTimes(await packageAnswer.text()), withoutTimes(workerAnswer.text()), Accept);
      for (const name of ["content-type", "cache-control", "x-ratelimit-limit", "x-ratelimit-type", "x-ratelimit-remaining"]) assert.equal(packageHeaders[name], workerHeaders[name], name);
    }
  });

  it("a block that the package sets denies in the Worker", async () => {
    await limiter.redis.blockIP("192.0.2.77", 600);
    const answer = await send(worker.url, { headers: { "CF-Connecting-IP": "192.0.2.77" } });
    assert.deepEqual([answer.status, answer.json().blocked], [429, true]);
    const list = await send(worker.url, { path: "/_limiter/blocked", headers: { "CF-Connecting-IP": "192.0.2.2", Authorization: `Bearer ${vars.ADMIN_TOKEN}` } });
    assert.deepEqual(list.json().blocked.map(({ target }) => target), ["192.0.2.77"]);
  });
});

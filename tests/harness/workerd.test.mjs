/** Tests the harness: it leaves nothing behind, and it reports failures. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, it } from "node:test";
import { send } from "./request.mjs";
import { within } from "./within.mjs";
import { startWorkerd } from "./workerd.mjs";

describe("startWorkerd", () => {
  it("the Worker gets its variables, whatever characters they contain", async () => {
    const workerd = await startWorkerd({ vars: { RATE_LIMIT_GENERAL: "7,60", NOISE: "\"\\\n\t\u0001é\u{1f600}", RATE_LIMIT_POLICIES: { general: { algorithm: "fixed-window" } } } });
    try {
      const answer = await send(workerd.url, { headers: { "CF-Connecting-IP": "192.0.2.1" } });
      assert.equal(answer.headers["x-ratelimit-limit"], "7");
      assert.equal(Number(answer.headers["x-ratelimit-reset"]) % 60, 0);
    } finally {
      await workerd.stop();
    }
    assert.equal(workerd.alive, false);
    await assert.rejects(send(workerd.url), { code: "ECONNREFUSED" });
  });

  it("the error says why workerd did not start", async () => {
    await assert.rejects(startWorkerd({ args: ["--no-such-option"] }), /no-such-option/);
  });

  it("workerd ends when the process that started it is killed", { skip: process.platform !== "linux" }, async () => {
    const script = `
      import { startWorkerd } from ${JSON.stringify(new URL("workerd.mjs", import.meta.url))};
      const { url } = await startWorkerd();
      console.log(url);
      setInterval(() => {}, 1000);`;
    const parent = spawn(process.execPath, ["--input-type=module", "--eval", script], { stdio: ["ignore", "pipe", "inherit"] });
    const [line] = await within(once(parent.stdout, "data"), "the URL of the Worker");
    const url = line.toString().trim();
    assert.equal((await send(url, { headers: { "CF-Connecting-IP": "192.0.2.1" } })).status, 200);
    parent.kill("SIGKILL");
    await once(parent, "exit");
    await within((async () => {
      for (;;) {
        try {
          await send(url);
        } catch (error) {
          if (error.code === "ECONNREFUSED") return;
        }
      }
    })(), "the end of workerd");
  });
});

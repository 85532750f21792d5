/** Blocks and resets on the page are in force in every isolate. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, ELSEWHERE_MS, blocked, eventually, good, has, isAdmitted, isBlocked, usage } from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { ask, startShared } from "../harness/limited.mjs";
import { loaded, logIn, openTab, startBrowser } from "./browser.mjs";

const CALLER = "192.0.2.1";

describe("blocks on the page", () => {
  let browser, shared;
  before(async () => {
    [browser, shared] = await Promise.all([startBrowser(), startShared()]);
  });
  after(() => Promise.all([browser?.close(), shared?.stop()]));
  beforeEach(() => shared.reset());

  const start = () => shared.warm({ ADMIN_TOKEN, RATE_LIMIT_IP: "off", RATE_LIMIT_AUTH: `2,${HOUR_S},600`, RATE_LIMIT_ROUTES: [{ path: "/auth", policies: ["auth"] }] });
  const two = () => Promise.all([start(), start()]);

  /** Runs `body` in a tab that is logged in. */
  async function inTab(limiter, hash, body) {
    const { tab, context, complaints } = await openTab(browser);
    try {
      await logIn(tab, limiter, hash);
      await loaded(tab);
      await body(tab);
      assert.deepEqual(complaints, []);
    } finally {
      await context.close();
    }
  }

  it("a block that is set, extended and lifted on the page is in force in another isolate", async () => {
    const [here, there] = await two();
    await isAdmitted(there, CALLER);
    await inTab(here, "#/blocks", async (tab) => {
      await tab.getByText("Nobody is blocked everywhere.").waitFor();
      assert.equal(await tab.getByText("Memory mode").count(), 0);
      await tab.getByRole("button", { name: "Block an address or a range…" }).click();
      const dialog = tab.getByRole("dialog");
      await dialog.getByLabel("Address or range").fill("10.0.0.1/8");
      await dialog.getByRole("button", { name: "Block" }).click();
      await dialog.getByRole("alert").getByText("name the range 10.0.0.0/8").waitFor();
      await dialog.getByLabel("Address or range").fill(CALLER);
      await dialog.getByLabel("For").selectOption("600");
      await dialog.getByLabel("Reason").fill("credential stuffing");
      await tab.keyboard.press("Enter");
      await tab.getByRole("status").getByText(`${CALLER} is blocked for 10 min.`).waitFor();
      const row = tab.getByRole("region", { name: "Blocked addresses and ranges" }).getByRole("row").filter({ hasText: CALLER });
      assert.match(await row.innerText(), /operator\s+credential stuffing/);
      await eventually(() => isBlocked(there, CALLER, 600), ELSEWHERE_MS + 2000);

      await tab.getByRole("button", { name: `Extend the block of ${CALLER}` }).click();
      assert.equal(await dialog.getByLabel("Reason").inputValue(), "credential stuffing");
      await dialog.getByLabel("From now for").selectOption("custom");
      await dialog.getByLabel("Seconds").fill("7200");
      await dialog.getByRole("button", { name: "Extend" }).click();
      await tab.getByRole("status").getByText("for 2 h").waitFor();
      has(await good(there, "GET", blocked(CALLER)), { blocked: true, by: "operator", reason: "credential stuffing" });
      await eventually(() => isBlocked(there, CALLER, 7200), ELSEWHERE_MS + 2000);

      await tab.getByRole("button", { name: `Lift the block of ${CALLER}` }).click();
      await dialog.getByRole("button", { name: "Cancel" }).click();
      await isBlocked(here, CALLER, 7200);
      assert.equal(await tab.evaluate(() => document.activeElement.textContent), "Lift…", "the focus is not back on the button that opened the dialog");
      await tab.getByRole("button", { name: `Lift the block of ${CALLER}` }).click();
      await dialog.getByRole("button", { name: "Lift" }).click();
      await tab.getByRole("status").getByText(`The block of ${CALLER} is lifted.`).waitFor();
      await tab.getByText("Nobody is blocked everywhere.").waitFor();
      for (const limiter of [here, there]) await eventually(() => isAdmitted(limiter, CALLER), ELSEWHERE_MS + 2000);
    });
  });

  it("a policy's block is shown with the caller's usage, and ends when the caller is reset", async () => {
    const [here, there] = await two();
    for (const status of [200, 200, 429]) assert.equal(await ask(there, CALLER, "/auth"), status);
    await inTab(here, `#/callers/${CALLER}`, async (tab) => {
      await tab.getByText("Not blocked").waitFor();
      const row = tab.getByRole("row").filter({ has: tab.getByRole("button", { name: "Reset in auth" }) });
      await row.getByText(/^blocked, (10 min|9 min \d+ s) left$/).waitFor();
      assert.match(await row.innerText(), /2 an hour\s+2\s+0/);
      await tab.getByRole("region", { name: "Events" }).getByText("Over the quota of auth").first().waitFor();
      await row.getByRole("button", { name: "Reset in auth" }).click();
      await tab.getByRole("dialog").getByRole("button", { name: "Reset" }).click();
      await tab.getByRole("status").getByText(`${CALLER} starts afresh in auth.`).waitFor();
      await row.getByText("admitted").waitFor();
      has(await good(here, "GET", usage("auth", CALLER)), { used: 0, blocked_until: null });
      await eventually(async () => assert.equal(await ask(there, CALLER, "/auth"), 200), ELSEWHERE_MS + 2000);

      await tab.getByRole("button", { name: "Block…" }).click();
      await tab.getByRole("dialog").getByLabel("For").selectOption("");
      await tab.getByRole("dialog").getByRole("button", { name: "Block" }).click();
      await tab.getByText("until lifted", { exact: true }).waitFor();
      await eventually(() => isBlocked(there, CALLER, null), ELSEWHERE_MS + 2000);
      await tab.getByRole("button", { name: "Unblock…" }).click();
      await tab.getByRole("dialog").getByRole("button", { name: "Lift" }).click();
      await tab.getByText("Not blocked").waitFor();
    });
  });

  it("blocks are listed in pages", async () => {
    const here = await start();
    const targets = Array.from({ length: 70 }, (_, at) => `198.51.100.${at}`);
    for (const target of targets) await good(here, "PUT", blocked(target), { json: { seconds: 6000 } });
    await inTab(here, "#/blocks", async (tab) => {
      const shown = () => tab.getByRole("region", { name: "Blocked addresses and ranges" }).locator("tbody tr td:first-child").allInnerTexts();
      const first = await shown();
      assert.equal(await tab.getByRole("button", { name: "Previous page" }).isDisabled(), true);
      await tab.getByRole("button", { name: "Next page" }).click();
      await tab.getByText("page 2").waitFor();
      const second = await shown();
      assert.deepEqual([...first, ...second].sort(), targets.sort());
      assert.equal(await tab.getByRole("button", { name: "Next page" }).isDisabled(), true);
      await tab.getByRole("button", { name: "Previous page" }).click();
      await tab.getByText("page 1").waitFor();
      assert.deepEqual(await shown(), first);
    });
  });
});

/** The page shows what a real limiter counts. No test here uses the fixture. */

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { ADMIN_TOKEN, MODES, RECORDED_MS, eventually } from "../harness/control.mjs";
import { ask, startShared } from "../harness/limited.mjs";
import { loaded, logIn, openTab, startBrowser } from "./browser.mjs";

const LIMIT = 10;
/** Requests of three callers within a window: one is denied. */
const CALLERS = [["192.0.2.1", LIMIT + 3], ["192.0.2.2", 6], ["192.0.2.3", 2]];
const WINDOW_S = 2;

describe("counts on the page", () => {
  let browser, shared;
  before(async () => {
    [browser, shared] = await Promise.all([startBrowser(), startShared()]);
  });
  after(() => Promise.all([browser?.close(), shared?.stop()]));
  beforeEach(() => shared.reset());

  for (const [mode, { vars }] of Object.entries(MODES)) {
    it(`in ${mode} match the requests by outcome and by policy, and suggest a limit`, async () => {
      const limiter = await shared.limiter({ ADMIN_TOKEN, ...vars, RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_METRICS: true, RATE_LIMIT_METRICS_SECONDS: 1 });
      for (const [caller, times] of CALLERS) for (let request = 0; request < times; request += 1) await ask(limiter, caller);
      const { tab, context, complaints } = await openTab(browser);
      await logIn(tab, limiter);
      await loaded(tab);
      const asked = CALLERS.reduce((sum, [, times]) => sum + times, 0);
      const figure = (title) => tab.locator(".tile").filter({ has: tab.getByRole("heading", { name: title, exact: true }) }).locator(".figure").innerText();
      await eventually(async () => {
        await tab.getByRole("button", { name: "Refresh" }).click();
        await loaded(tab);
        assert.deepEqual([await figure("Requests"), await figure("Admitted"), await figure("Denied")], [asked, asked - 3, 3].map(String));
      }, RECORDED_MS, 500);
      assert.equal(await tab.getByText(/^Memory mode: .* one isolate only, [0-9a-f]{16}, which answered/).count(), mode === "memory" ? 1 : 0);
      const policy = tab.locator("section").filter({ has: tab.getByRole("heading", { name: "By policy" }) });
      await policy.getByText(`general ${asked}`).waitFor();

      // A caller's window is counted once it is over, and sent with the next counts.
      await tab.getByRole("link", { name: "Policies" }).click();
      await loaded(tab);
      const find = tab.locator("section").filter({ has: tab.getByRole("heading", { name: "Find a limit" }) });
      await find.getByRole("button", { name: "Hour" }).click();
      await eventually(async () => {
        await ask(limiter, "192.0.2.9");
        await tab.getByRole("button", { name: "Refresh" }).click();
        await loaded(tab);
        // Until the window is counted, this text is absent.
        assert.equal(await find.getByText(`Its limit is ${LIMIT}.`).count(), 1);
        const rows = await Promise.all((await find.locator("tbody tr").all()).map((row) => row.locator("td").allInnerTexts()));
        const above = Object.fromEntries(rows.map(([limit, , number]) => [limit, number]));
        // The callers used 10, 6 and 2 units.
        assert.deepEqual([above[9], above[5], above[1]], ["1", "2", "3"], JSON.stringify(above));
      }, 2 * RECORDED_MS, 1000);
      assert.deepEqual(complaints, []);
      await context.close();
    });
  }

  it("the operator log shows who did what", async () => {
    const limiter = await shared.warm({ ADMIN_TOKEN });
    const { tab, context, complaints } = await openTab(browser);
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    await tab.getByText("The log has no action of an operator.").waitFor();
    await tab.getByRole("button", { name: "Block an address or a range…" }).click();
    const dialog = tab.getByRole("dialog");
    await dialog.getByLabel("Address or range").fill("203.0.113.0/24");
    await dialog.getByLabel("For").selectOption("600");
    await dialog.getByLabel("Reason").fill("a test");
    await dialog.getByRole("button", { name: "Block" }).click();
    const log = tab.getByRole("region", { name: "What operators did" });
    assert.match(await log.locator("tbody tr").first().innerText(), /admin\s+198\.18\.0\.1\s+blocked\s+203\.0\.113\.0\/24\s+600 s: a test/);
    assert.deepEqual(complaints, []);
    await context.close();
  });
});

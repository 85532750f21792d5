/** Everybody can use the page: axe checks labels and contrast in light and dark. The page works on a phone and by keyboard. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, it } from "node:test";
import { ADMIN_TOKEN } from "../harness/control.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { loaded, logIn, openTab, playFixture, startBrowser } from "./browser.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

const VIEWS = ["traffic", "events?policy=auth&-caller=203.0.113.77", "callers", "callers/203.0.113.77", "callers/192.0.2.191", "blocks", "policies", "store"];

/** The violations that axe finds, as short texts. */
async function violations(tab) {
  await tab.evaluate(AXE);
  const { violations: found } = await tab.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return found.map(({ id, nodes }) => `${id}, ${nodes.length} times: ${nodes[0].html.slice(0, 200)} ${nodes[0].failureSummary.slice(0, 400)}`);
}

describe("dashboard accessibility", () => {
  let browser, limiter;
  before(async () => {
    [browser, limiter] = await Promise.all([startBrowser(), startWorkerd({ vars: { ADMIN_TOKEN } })]);
  });
  after(() => Promise.all([browser?.close(), limiter?.stop()]));

  const open = async (options) => {
    const opened = await openTab(browser, options);
    await playFixture(opened.tab);
    return opened;
  };

  for (const colorScheme of ["light", "dark"]) {
    it(`axe finds no violation in ${colorScheme} mode, at the login, in every view and in a dialog`, async () => {
      const { tab, context } = await open({ colorScheme });
      await tab.goto(`${limiter.url}/_limiter/`);
      await tab.getByLabel("Admin token").waitFor();
      assert.deepEqual(await violations(tab), [], "login");
      await logIn(tab, limiter);
      for (const view of VIEWS) {
        await tab.goto(`${limiter.url}/_limiter/#/${view}`);
        await loaded(tab);
        for (const summary of await tab.getByText("As a table").all()) await summary.click();
        assert.deepEqual(await violations(tab), [], view);
      }
      await tab.goto(`${limiter.url}/_limiter/#/blocks`);
      await tab.getByRole("button", { name: "Block an address or a range…" }).click();
      await tab.getByRole("dialog").getByLabel("For").selectOption("custom");
      assert.deepEqual(await violations(tab), [], "dialog");
      await context.close();
    });
  }

  it("the page follows the system's color scheme, and changes with it at once", async () => {
    const { tab, context, complaints } = await open({ colorScheme: "light" });
    await logIn(tab, limiter, "#/traffic");
    await loaded(tab);
    const brightness = () => tab.evaluate(() => {
      const [red, green, blue] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
      return (red + green + blue) / 3;
    });
    assert.ok((await brightness()) > 200);
    await tab.emulateMedia({ colorScheme: "dark" });
    assert.ok((await brightness()) < 60);
    assert.equal(await tab.locator("canvas").count(), 3);
    assert.deepEqual(complaints, []);
    await context.close();
  });

  it("no view scrolls sideways on a phone, even with long names", async () => {
    const { tab, context } = await openTab(browser, { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
    const long = `/${"a".repeat(250)}`;
    await playFixture(tab, (_, path) => path.startsWith("suspicious") && { status: 200, json: { scope: "shared", hours: 1, callers: [{ caller: `user-${"0".repeat(32)}`, denied: 5, policies: { [long]: 5 } }] } });
    await logIn(tab, limiter);
    for (const view of [...VIEWS, `events?path=${encodeURIComponent(long)}&policy=auth`, `callers/${encodeURIComponent(long)}`]) {
      await tab.goto(`${limiter.url}/_limiter/#/${view}`);
      await loaded(tab);
      const [whole, visible] = await tab.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
      assert.ok(whole <= visible, `${view} is ${whole} pixels wide, the screen ${visible}`);
      const outside = await tab.locator("h1, nav").evaluateAll((elements) => elements.filter((element) => element.getBoundingClientRect().right > innerWidth + 1).length);
      assert.equal(outside, 0, view);
    }
    await context.close();
  });

  it("the keyboard reaches every control, and the focus outlasts a refresh", async () => {
    const { tab, context } = await open();
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    const reached = new Set();
    for (let step = 0; step < 60; step += 1) {
      await tab.keyboard.press("Tab");
      reached.add(await tab.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent));
    }
    for (const name of ["Traffic", "Store", "Refresh", "Pause", "Block an address or a range…", "Extend the block of 198.51.100.0/24", "Lift the block of 198.51.100.0/24", "Forget token"]) {
      assert.ok(reached.has(name), `Tab does not reach "${name}", only ${[...reached]}`);
    }
    const lift = tab.getByRole("button", { name: "Lift the block of 198.51.100.0/24" });
    await lift.focus();
    await Promise.all([tab.waitForResponse("**/blocked?*"), tab.evaluate(() => [...document.querySelectorAll("button")].find((one) => one.textContent === "Refresh").click())]);
    await loaded(tab);
    assert.equal(await tab.evaluate(() => document.activeElement.getAttribute("aria-label")), "Lift the block of 198.51.100.0/24");
    await tab.keyboard.press("Enter");
    await tab.getByRole("dialog").waitFor();
    await tab.keyboard.press("Escape");
    await tab.getByRole("dialog").waitFor({ state: "detached" });
    await context.close();
  });
});

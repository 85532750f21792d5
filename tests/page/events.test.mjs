/** The page's list of events: live updates, filters and exports. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, afterEach, before, describe, it } from "node:test";
import { ADMIN_TOKEN, RECORDED_MS, get } from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { loaded, logIn, openTab, playFixture, startBrowser } from "./browser.mjs";
import { eventsAt } from "./fixture.mjs";

describe("the page's list of events", () => {
  let browser, limiter;
  before(async () => {
    const vars = { ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_AUTH: `1,${HOUR_S},600`, RATE_LIMIT_IP: "off", RATE_LIMIT_ROUTES: [{ path: "/auth/**", policies: ["auth"] }] };
    [browser, limiter] = await Promise.all([startBrowser(), startWorkerd({ vars })]);
  });
  after(() => Promise.all([browser?.close(), limiter?.stop()]));

  let opened;
  const open = async () => (opened = await openTab(browser, { acceptDownloads: true }));
  afterEach(async () => {
    assert.deepEqual(opened.complaints, []);
    await opened.context.close();
  });

  const rows = (tab) => tab.getByRole("region", { name: "Events" }).locator("tbody tr");
  const column = (tab, at) => rows(tab).locator(`td:nth-child(${at})`).allInnerTexts();
  const exported = async (tab, name) => {
    const [file] = await Promise.all([tab.waitForEvent("download"), tab.getByRole("button", { name }).click()]);
    return readFileSync(await file.path(), "utf8");
  };

  it("starts empty, says that in memory it is one isolate's list, and shows a new denial with its reason", async () => {
    const { tab } = await open();
    await logIn(tab, limiter, "#/events");
    await tab.getByText("Nothing has been recorded.").waitFor();
    await tab.getByText(/^Memory mode: .* one isolate only/).waitFor();
    for (const status of [200, 429, 429]) assert.equal((await get(limiter, "192.0.2.7", "/auth/login?secret", { method: "POST" })).status, status);
    const row = rows(tab).filter({ hasText: "192.0.2.7" });
    await row.first().waitFor({ timeout: RECORDED_MS });
    const text = await row.first().innerText();
    assert.match(text, /denied\s+192\.0\.2\.7[\s\S]*auth\s+POST\s+\/auth\/login\s/);
    assert.match(text, /Over the quota of auth: 1 an hour for each address, then blocked for 10 min\./);
    assert.doesNotMatch(text, /secret/);
  });

  it("filters by a selected value, excludes it with Shift, and keeps the filters in the URL's hash", async () => {
    const { tab } = await open();
    await playFixture(tab);
    await logIn(tab, limiter, "#/events");
    await loaded(tab);
    const all = eventsAt(Date.now());
    assert.equal(await rows(tab).count(), all.length);
    const texts = async () => (await tab.getByText(/records that are loaded/).innerText()).match(/^(\d+) of (\d+)/).slice(1).map(Number);

    await rows(tab).getByRole("button", { name: "auth", exact: true }).first().click();
    const auth = all.filter(({ policy }) => policy === "auth");
    assert.deepEqual(await texts(), [auth.length, all.length]);
    assert.deepEqual([...new Set(await column(tab, 4))], ["auth"]);

    await rows(tab).getByRole("button", { name: "203.0.113.77", exact: true }).first().click({ modifiers: ["Shift"] });
    const rest = auth.filter(({ caller }) => caller !== "203.0.113.77");
    assert.deepEqual(await texts(), [rest.length, all.length]);
    assert.equal(new URL(tab.url()).hash, "#/events?policy=auth&-caller=203.0.113.77");

    // With the keyboard only.
    await rows(tab).getByRole("button", { name: "NL", exact: true }).first().focus();
    await tab.keyboard.press("Enter");
    const dutch = rest.filter(({ country }) => country === "NL");
    assert.deepEqual(await texts(), [dutch.length, all.length]);
    await tab.getByRole("button", { name: "Remove the filter Country NL" }).click();

    await tab.getByLabel("Field").selectOption("path");
    await tab.getByLabel("Match").selectOption("~");
    await tab.getByLabel("Value").fill("REGISTER");
    await tab.keyboard.press("Enter");
    const registered = rest.filter(({ path }) => path.includes("register"));
    assert.deepEqual(await texts(), [registered.length, all.length]);

    await tab.reload();
    await loaded(tab);
    assert.deepEqual(await texts(), [registered.length, all.length], "a reload does not restore the filters from the hash");
    await tab.getByRole("button", { name: "is not: reverse the filter Caller 203.0.113.77" }).click();
    const turned = auth.filter(({ caller, path }) => caller === "203.0.113.77" && path.includes("register"));
    assert.deepEqual(await texts(), [turned.length, all.length]);
    await tab.getByRole("button", { name: "Clear all" }).click();
    assert.deepEqual(await texts(), [all.length, all.length]);
    await tab.goto(`${limiter.url}/_limiter/#/events?kind=denied&kind=refused&country=XX`);
    await tab.getByText("No record matches these filters.").waitFor();
  });

  it("is exported as JSON and as CSV without formulas", async () => {
    const { tab } = await open();
    const [first, ...others] = eventsAt(Date.now());
    const hostile = { ...first, path: '=HYPERLINK("http://evil.example","x")', method: "@SUM(1)", caller: "+1,2", country: "-1" };
    await playFixture(tab, (_, path) => path.startsWith("events") && { status: 200, json: { scope: "shared", events: [hostile, ...others], left_out: 7, cursor: null } });
    await logIn(tab, limiter, "#/events?policy=auth&policy=blocked");
    await loaded(tab);
    await tab.getByText("7 more events were not recorded, because there was no room.").waitFor();
    const wanted = [hostile, ...others].filter(({ policy }) => ["auth", "blocked"].includes(policy));
    const json = JSON.parse(await exported(tab, "Export JSON"));
    assert.deepEqual(json.map(({ why: _, ...event }) => event), wanted);
    assert.ok(json.every(({ why }) => why !== ""));
    const lines = (await exported(tab, "Export CSV")).split("\r\n");
    assert.equal(lines.length, wanted.length + 2);
    assert.equal(lines[0], "time,last,kind,caller,address,policy,method,path,status,count,country,asn,ray,why,id");
    assert.ok(lines[1].includes(`,"'+1,2",`), lines[1]);
    assert.ok(lines[1].includes(`,'@SUM(1),"'=HYPERLINK(""http://evil.example"",""x"")",429,`), lines[1]);
    assert.ok(lines[1].includes(",'-1,"), lines[1]);
  });

  it("loads older records, and keeps them after a refresh", async () => {
    const { tab } = await open();
    const all = eventsAt(Date.now());
    await playFixture(tab, (_, path) => path.startsWith("events") && {
      status: 200, json: { scope: "shared", left_out: 0, ...(path.includes("cursor=a%3A1") ? { events: all.slice(50), cursor: null } : { events: all.slice(0, 50), cursor: "a:1" }) },
    });
    await logIn(tab, limiter, "#/events");
    await loaded(tab);
    assert.equal(await rows(tab).count(), 50);
    await tab.getByRole("button", { name: "Load older" }).click();
    await tab.getByRole("button", { name: "Load older" }).waitFor({ state: "detached" });
    assert.equal(await rows(tab).count(), all.length);
    await tab.getByRole("button", { name: "Refresh" }).click();
    await loaded(tab);
    assert.equal(await rows(tab).count(), all.length);
  });
});

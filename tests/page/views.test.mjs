/** What the views show of the control plane's answers, and when they call it. */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { ADMIN_TOKEN } from "../harness/control.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { loaded, logIn, openTab, playFixture, startBrowser } from "./browser.mjs";
import { series } from "./fixture.mjs";

const NOTHING = { status: 404, json: { error: "not_found", message: "The control plane has no such path, or the token or feature that it needs is not configured." } };

describe("the page's views", () => {
  let browser, limiter;
  before(async () => {
    [browser, limiter] = await Promise.all([startBrowser(), startWorkerd({ vars: { ADMIN_TOKEN } })]);
  });
  after(() => Promise.all([browser?.close(), limiter?.stop()]));

  let opened;
  const open = async (hash, first) => {
    opened = await openTab(browser);
    await playFixture(opened.tab, first);
    await logIn(opened.tab, limiter, hash);
    await loaded(opened.tab);
    return opened.tab;
  };
  afterEach(async () => {
    assert.deepEqual(opened.complaints, []);
    await opened.context.close();
  });

  const panel = (tab, title) => tab.locator("section").filter({ has: tab.getByRole("heading", { name: title, exact: true }) });
  const digits = (text) => Number(text.replaceAll(",", ""));

  describe("the Traffic view", () => {
    const tiles = async (tab) => {
      const texts = await tab.locator(".tile").allInnerTexts();
      return Object.fromEntries(texts.map((text) => {
        const [title, figure, ...note] = text.split("\n").filter(Boolean);
        return [title, [figure, note.join(" ")]];
      }));
    };

    it("shows each figure of a window next to the change on the window before", async () => {
      const tab = await open("#/traffic");
      for (const [window, name] of [["day", "Day"], ["month", "Month"], ["hour", "Hour"]]) {
        await Promise.all([tab.waitForResponse(`**/series?window=${window}`), tab.getByRole("button", { name, exact: true }).click()]);
        await tab.locator(".tile").filter({ hasText: `the ${window} before` }).first().waitFor();
        assert.equal(await tab.getByRole("button", { name, exact: true }).getAttribute("aria-pressed"), "true");
        const { buckets, from, to } = series(window, Date.now());
        const half = (isShown) => buckets.filter(({ at }) => at >= from + (to - from) / 2 === isShown);
        const sum = (list, names) => list.reduce((total, { requests }) => total + names.reduce((part, key) => part + requests[key], 0), 0);
        const all = ["admitted", "denied", "blocked", "exempt", "unavailable"];
        const shown = await tiles(tab);
        for (const [title, names] of [["Requests", all], ["Admitted", ["admitted", "exempt"]], ["Denied", ["denied"]], ["Blocked", ["blocked"]]]) {
          const [now, then] = [sum(half(true), names), sum(half(false), names)];
          assert.equal(digits(shown[title][0]), now, `${window} ${title}`);
          const change = 100 * Math.abs(now - then) / then;
          assert.equal(shown[title][1], `${now > then ? "+" : "−"}${change < 9.95 ? change.toFixed(1) : Math.round(change)} % on the ${window} before`);
        }
        const sources = half(true).map(({ sources: one }) => one);
        const of = (source) => sources.reduce((total, one) => total + one[source], 0);
        const without = of("memory") + of("lease") + of("remembered");
        assert.equal(shown["Decided without Redis"][0], `${Math.round(100 * without / (without + of("store")))} %`);
      }
    });

    it("draws charts, and shows their numbers as tables", async () => {
      const tab = await open("#/traffic");
      assert.equal(await tab.locator("canvas").count(), 3);
      const box = await tab.locator("canvas").first().boundingBox();
      assert.ok(box.width > 500 && box.height > 100, JSON.stringify(box));
      await panel(tab, "By policy").getByRole("button", { name: "Denials" }).click();
      assert.match(tab.url(), /by=denials/);
      const chart = panel(tab, "Requests by outcome");
      await chart.getByText("As a table").click();
      const rows = chart.getByRole("region", { name: "Requests by outcome, as numbers" }).locator("tbody tr");
      // The table is filled when it is opened.
      await rows.nth(59).waitFor();
      assert.equal(await rows.count(), 60);
      await Promise.all([tab.waitForResponse("**/series?*"), tab.getByRole("button", { name: "Refresh" }).click()]);
      await loaded(tab);
      await rows.nth(59).waitFor();
      assert.equal(await rows.count(), 60, "the table is not open after a refresh");
      const { buckets, from, to } = series("hour", Date.now());
      const [oldest] = buckets.filter(({ at }) => at >= from + (to - from) / 2);
      assert.equal(digits(await rows.last().locator("td").nth(1).innerText()), oldest.requests.admitted);
    });

    it("lists what is denied most, names the records it is made of, and links to the events", async () => {
      const tab = await open("#/traffic");
      assert.match(await panel(tab, "Callers denied most").innerText(), /in the last hour, by their own quotas\s+203\.0\.113\.77\s+4,438\s+auth 4,127, mfa 311/);
      for (const title of ["Paths denied most", "Countries denied most", "Networks denied most"]) {
        assert.match(await panel(tab, title).innerText(), /of the newest 120 records of events, since /);
      }
      await panel(tab, "Networks denied most").getByRole("link", { name: "AS64511" }).click();
      await tab.getByRole("heading", { name: "Events", exact: true }).waitFor();
      assert.equal(new URL(tab.url()).hash, "#/events?kind=denied&asn=64511");
      await tab.getByText(/of 120 records that are loaded/).waitFor();
    });

    it("reports that nothing is counted, or that only one isolate's counts are shown", async () => {
      let tab = await open("#/traffic", (_, path) => path.startsWith("series") && NOTHING);
      await tab.getByText("Nothing is counted: RATE_LIMIT_METRICS is false").waitFor();
      assert.equal(await tab.locator("canvas").count(), 0);
      assert.equal(await panel(tab, "Paths denied most").getByRole("link").count(), 6);
      await opened.context.close();
      tab = await open("#/traffic", (_, path) => path.startsWith("series") && { status: 200, json: { ...series("hour", Date.now()), shared: false, isolate: "0123456789abcdef" } });
      await tab.getByText(/^Memory mode: there is no shared store\. You see the counts of one isolate only, 0123456789abcdef, which answered/).waitFor();
      await opened.context.close();
      tab = await open("#/traffic", (_, path) => path.startsWith("series") && { status: 200, json: { ...series("hour", Date.now()), buckets: [] } });
      assert.deepEqual((await tiles(tab)).Requests, ["0", "as in the hour before"]);
      assert.equal((await tiles(tab))["Decided without Redis"][0], "–");
      await panel(tab, "By policy").getByText("No policy decided in this window.").waitFor();
    });
  });

  describe("the Policies view", () => {
    it("lists the policies in force, and what shadow policies would have denied", async () => {
      const tab = await open("#/policies");
      const row = (name) => tab.getByRole("region", { name: "Policies in force" }).getByRole("row").filter({ has: tab.getByRole("cell", { name: new RegExp(`^${name}\\b`) }) });
      assert.match(await row("auth").innerText(), /auth\s+30\s+1 min\s+10 min\s+sliding-window\s+each address\s+enforce\s+memory/);
      assert.match(await row("ip").innerText(), /every request/);
      const { buckets, from, to } = series("day", Date.now());
      const shown = buckets.filter(({ at }) => at >= from + (to - from) / 2).map(({ policies }) => policies.search);
      const denied = shown.reduce((sum, one) => sum + one.shadow_denied, 0);
      const asked = denied + shown.reduce((sum, one) => sum + one.admitted, 0);
      const cells = await panel(tab, "Shadow policies").locator("tbody td").allInnerTexts();
      assert.deepEqual([cells[0], digits(cells[1]), digits(cells[2]), cells[3]], ["search", asked, denied, "2.1 %"]);
    });

    it("shows which share of callers' windows a lower limit would have denied", async () => {
      const tab = await open("#/policies");
      const find = panel(tab, "Find a limit");
      await find.getByLabel("Policy").selectOption("auth");
      await find.getByText("Its limit is 30.").waitFor();
      await find.getByText("Each isolate follows the first 200 callers of a window.").waitFor();
      const { buckets, from, to } = series("day", Date.now());
      const usage = buckets.filter(({ at }) => at >= from + (to - from) / 2).map((one) => one.usage.auth);
      const above = (tenth) => usage.reduce((sum, one) => sum + one[tenth], 0);
      const rows = await Promise.all((await find.locator("tbody tr").all()).map((row) => row.locator("td").allInnerTexts()));
      assert.equal(rows.length, 9);
      for (const [at, tenth] of [[0, 9], [4, 5], [8, 1]]) {
        const share = 100 * above(tenth) / above(0);
        assert.deepEqual(
          [rows[at][0], rows[at][1], digits(rows[at][2]), rows[at][3]],
          [String(3 * tenth), `${10 * tenth} %`, above(tenth), `${share < 9.95 ? share.toFixed(1) : Math.round(share)} %`],
        );
      }
      await find.getByLabel("Policy").selectOption("mfa");
      await find.getByText("There are no figures: no use of mfa was counted in the last day.").waitFor();
      await tab.reload();
      await loaded(tab);
      assert.equal(await find.getByLabel("Policy").inputValue(), "mfa", "a reload does not restore the policy from the hash");
    });

    it("shows no figures that nobody counted", async () => {
      const tab = await open("#/policies", (_, path) => path.startsWith("series") && NOTHING);
      await panel(tab, "Find a limit").getByText("There are no figures, because nothing is counted.").waitFor();
      await panel(tab, "Shadow policies").getByText("What they would have denied is not known").waitFor();
    });
  });

  describe("the Store view", () => {
    it("shows what commands cost a day, at a price that the operator can change", async () => {
      const tab = await open("#/store");
      const { buckets, from, to } = series("hour", Date.now());
      const commands = buckets.filter(({ at }) => at >= from + (to - from) / 2).reduce((sum, one) => sum + one.commands, 0);
      const cost = (price) => `$${(24 * commands / 100_000 * price).toFixed(2)} a day`;
      const text = () => panel(tab, "The last hour").innerText();
      assert.ok((await text()).includes(cost(0.2)), await text());
      await tab.getByLabel("US dollars for 100,000 commands").fill("0.5");
      assert.ok((await text()).includes(cost(0.5)), await text());
      const redis = await panel(tab, "Redis").innerText();
      assert.match(redis, /The limiter's keys\s+48,211, counted .*Memory used\s+20 MiB/s);
      assert.match(redis, /Hit rate\s+87 %/);
      await panel(tab, "Configuration").getByText("RATE_LIMIT_JWT_AUDIENCE").waitFor();
    });

    it("says that Redis decides, over REST and over TCP", async () => {
      for (const store of ["upstash", "redis"]) {
        const tab = await open("#/store", (_, path) => (path === "health" ? { status: 200, json: { status: "ok", store, breaker: "closed", version: "0.2.0", errors: [], warnings: [] } } : undefined));
        await tab.getByRole("banner").getByText("ok · Redis").waitFor();
        assert.match(await panel(tab, "This isolate").innerText(), /Decides\s+Redis/);
      }
    });

    it("shows failures, and leaves out figures that the store does not report", async () => {
      const now = Date.now();
      const tab = await open("#/store", (_, path) => {
        if (path === "health") {
          return { status: 200, json: {
            status: "misconfigured", store: "memory", breaker: "open", version: "0.2.0", failing: { since: now - 60_000, why: "The plan is used up.", next_try: now + 90_000 },
            records: { since: now - 5000, why: "it is broken" }, errors: [{ variable: "RATE_LIMIT_AUTH", rule: "must be `requests,seconds`." }], warnings: [],
          } };
        }
        return path === "store" ? { status: 200, json: { shared: true, keys: null, redis: { at: now, memory_used_bytes: 2048 } } } : undefined;
      });
      const health = await panel(tab, "This isolate").innerText();
      assert.match(health, /misconfigured.*open.*The plan is used up\..*Next try in\s+1 min.*Records cannot be written\s+since .*: it is broken/s);
      await tab.getByRole("banner").getByText("misconfigured · memory").waitFor();
      const redis = await panel(tab, "Redis").innerText();
      assert.match(redis, /not counted yet.*Memory used\s+2\.0 KiB/s);
      assert.doesNotMatch(redis, /Clients|Hit rate|Replicas|NaN|undefined/);
      await panel(tab, "Configuration").getByText("must be `requests,seconds`.").waitFor();
    });
  });

  it("the Blocks view has a log of what operators did", async () => {
    let tab = await open("#/blocks");
    const log = panel(tab, "Operator log");
    assert.match(await log.innerText(), /admin\s+192\.0\.2\.10\s+blocked\s+198\.51\.100\.0\/24\s+86400 s: credential stuffing, ticket 4711/);
    const did = await log.locator("tbody td:nth-child(4)").allInnerTexts();
    assert.deepEqual(did.map((text) => text.split(/\s*\n/)), [
      ["blocked"], ["blocked", "in force in one isolate only"], ["lifted"], ["lifted", "failed: Redis did not confirm it"], ["reset"],
    ]);
    assert.equal(await log.getByRole("button").count(), 0);
    await opened.context.close();
    tab = await open("#/blocks", (_, path) => path.startsWith("operations") && NOTHING);
    await panel(tab, "Operator log").getByText("keeps no log of operators' actions").waitFor();
  });

  it("the operator log shows the newest entries, and all of them on demand, also after a refresh", async () => {
    const operations = Array.from({ length: 1000 }, (_, at) => ({ at: Date.now() - 1000 * at, who: "admin", address: "192.0.2.10", action: "lift", target: `target ${at}`, details: "", outcome: "done" }));
    const asked = [];
    const tab = await open("#/blocks", (_, path) => {
      if (!path.startsWith("operations")) return undefined;
      asked.push(path);
      return { status: 200, json: { scope: "shared", operations } };
    });
    const rows = panel(tab, "Operator log").locator("tbody tr");
    assert.equal(await rows.count(), 50);
    await tab.getByRole("button", { name: "Show all 1,000" }).click();
    await tab.getByText("target 999").waitFor();
    await tab.getByRole("button", { name: "Refresh" }).click();
    await loaded(tab);
    assert.equal(await rows.count(), 1000);
    assert.deepEqual([...new Set(asked)], ["operations?limit=1000"]);
  });

  it("a view is refreshed while it is visible, and not while it is hidden or paused", async () => {
    opened = await openTab(browser);
    const { tab } = opened;
    await tab.clock.install();
    let asked = 0;
    await playFixture(tab, (_, path) => {
      if (path.startsWith("events")) asked += 1;
      return undefined;
    });
    await logIn(tab, limiter, "#/events");
    await loaded(tab);
    const during = async (ms) => {
      const before = asked;
      // Second by second, so that an answer can arrive after each step.
      for (let passed = 0; passed < ms; passed += 1000) {
        await tab.clock.runFor(1000);
        await loaded(tab);
      }
      return asked - before;
    };
    const setHidden = (isHidden) => tab.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, isHidden);
    const whileVisible = await during(20_000);
    assert.ok(whileVisible >= 3 && whileVisible <= 5, `${whileVisible} refreshes in 20 s`);
    await setHidden(true);
    // A call that had begun before the page was hidden ends.
    await loaded(tab);
    assert.equal(await during(60_000), 0, "the hidden page was refreshed");
    await setHidden(false);
    // The clock also runs on its own, so that a second refresh may be due on a busy machine.
    assert.ok((await during(1000)) >= 1, "the page was not refreshed at once when it became visible");
    await tab.getByRole("button", { name: "Pause" }).click();
    await tab.getByText(/, paused$/).waitFor();
    assert.equal(await during(30_000), 0, "the paused page was refreshed");
    await tab.getByRole("button", { name: "Resume" }).click();
    assert.ok((await during(6000)) >= 1);
  });
});

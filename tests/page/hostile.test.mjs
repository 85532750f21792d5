/** The page shows everything as text, including what attackers wrote. */

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { ADMIN_TOKEN, RECORDED_MS, blocked, get, good } from "../harness/control.mjs";
import { HOUR_S } from "../harness/fixtures.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { loaded, logIn, openTab, playFixture, startBrowser } from "./browser.mjs";
import { answer } from "./fixture.mjs";

const MARKUP = `<img src=x onerror="alert(1)">`;
const PAYLOADS = [
  `${MARKUP}"><script>alert(1)</script>' onclick='alert(1)<svg/onload=alert(1)></td></tr></table><iframe srcdoc="<script>alert(1)</script>">`,
  "javascript:alert(1)", "__proto__", "\u202e\u0000\n",
];

const VIEWS = ["traffic", "events", "callers", "callers/192.0.2.1", "blocks", "policies", "store"];

/** Counts elements that must never be in the page. */
const countIntruders = (tab) => tab.evaluate(() => document.querySelectorAll("img, svg, iframe, script:not([src='/_limiter/page.js']), [onerror], [onload], [onclick], a[href^='javascript:' i]").length);

describe("hostile texts on the page", () => {
  let browser, limiter;
  before(async () => {
    const vars = {
      ADMIN_TOKEN, RATE_LIMIT_GENERAL: `1,${HOUR_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_KEYED: `1,${HOUR_S}`,
      RATE_LIMIT_POLICIES: { keyed: { key: "header:X-Api-Key" } }, RATE_LIMIT_ROUTES: [{ path: "/keyed/**", policies: ["keyed"] }],
    };
    [browser, limiter] = await Promise.all([startBrowser(), startWorkerd({ vars, cfHeader: "X-Cf" })]);
  });
  after(() => Promise.all([browser?.close(), limiter?.stop()]));

  it("markup in paths, agents, callers, countries, reasons and rays runs in no view of a real limiter", async () => {
    const { tab, context, complaints } = await openTab(browser);
    const headers = { "User-Agent": MARKUP, "X-Api-Key": MARKUP, "CF-Ray": MARKUP, Referer: MARKUP, "X-Cf": JSON.stringify({ country: MARKUP, asn: 64500, colo: "VIE" }) };
    for (const path of [`/${MARKUP.replaceAll(" ", "/")}`, `/keyed/${encodeURIComponent(MARKUP)}`]) {
      for (let times = 0; times < 3; times += 1) await get(limiter, "192.0.2.1", path, { headers });
    }
    await get(limiter, MARKUP, "/", { headers });
    await get(limiter, MARKUP, "/", { headers });
    await good(limiter, "PUT", blocked("192.0.2.1"), { json: { reason: MARKUP } });
    await logIn(tab, limiter, "#/events");
    await tab.getByRole("region", { name: "Events" }).getByText("/keyed/").first().waitFor({ timeout: RECORDED_MS });
    for (const view of VIEWS) {
      await tab.goto(`${limiter.url}/_limiter/#/${view}`);
      await loaded(tab);
      assert.equal(await countIntruders(tab), 0, view);
    }
    await tab.goto(`${limiter.url}/_limiter/#/blocks`);
    await tab.getByRole("cell", { name: MARKUP, exact: true }).waitFor();
    assert.deepEqual(complaints, []);
    await context.close();
  });

  it("every view shows markup in any text of any answer as text", async () => {
    for (const [at, payload] of PAYLOADS.entries()) {
      const { tab, context, complaints } = await openTab(browser);
      await playFixture(tab, (method, path) => {
        const found = answer(method, path);
        // Field names and the texts in KEPT stay, or the page would not ask for the other answers.
        return found && { ...found, json: poisoned(found.json, payload) };
      });
      await logIn(tab, limiter, "#/traffic");
      for (const view of at === 0 ? [...VIEWS, `callers/${encodeURIComponent(payload)}`, `events?${new URLSearchParams([["path", payload], [payload, "x"], ["-caller", payload]])}`] : VIEWS) {
        await tab.goto(`${limiter.url}/_limiter/#/${view}`);
        await loaded(tab);
        assert.equal(await countIntruders(tab), 0, `${payload} in ${view}`);
      }
      assert.deepEqual(complaints, [], payload);
      await context.close();
    }
  });

  it("markup in an error's message is shown as text", async () => {
    const { tab, context, complaints } = await openTab(browser);
    let isBroken = false;
    await playFixture(tab, () => (isBroken ? { status: 503, json: { error: MARKUP, message: MARKUP } } : undefined));
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    isBroken = true;
    await tab.getByRole("button", { name: "Refresh" }).click();
    await tab.getByRole("alert").getByText(MARKUP).waitFor();
    assert.equal(await countIntruders(tab), 0);
    assert.deepEqual(complaints, []);
    await context.close();
  });

  it("the browser refuses innerHTML, inline scripts and other hosts' files in the page", async () => {
    const { tab, context, complaints } = await openTab(browser);
    await logIn(tab, limiter, "#/store");
    const notRefused = await tab.evaluate(async () => {
      const outcomes = [];
      const attempt = (name, body) => {
        try {
          body();
          outcomes.push(`${name} was not refused`);
        } catch {
          // The browser refused it, as it should.
        }
      };
      attempt("innerHTML", () => (document.createElement("div").innerHTML = "<b>x</b>"));
      const script = document.createElement("script");
      attempt("text", () => (script.textContent = "globalThis.ran = true"));
      document.body.append(script);
      const outside = document.createElement("img");
      outside.src = "http://127.0.0.1:9/x.png";
      document.body.append(outside);
      await fetch("http://127.0.0.1:9/").catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 300));
      return [...outcomes, globalThis.ran ? "an inline script ran" : ""].filter(Boolean);
    });
    assert.deepEqual(notRefused, []);
    for (const directive of ["require-trusted-types-for", "img-src", "connect-src"]) assert.ok(complaints.some((complaint) => complaint.startsWith(`policy: ${directive}`)), `the browser did not report a violation of ${directive}: ${complaints}`);
    await context.close();
  });
});

const KEPT = new Set(["status", "store", "breaker", "scope", "key", "mode", "algorithm"]);

/** Returns the value with every text replaced, and every name that a configuration or a caller chose. */
function poisoned(value, payload, name) {
  if (typeof value === "string") return KEPT.has(name) ? value : payload;
  if (Array.isArray(value)) return value.map((item) => poisoned(item, payload));
  if (value === null || typeof value !== "object") return value;
  const isNamed = name === "policies" || name === "usage";
  // Built as JSON text, in which `__proto__` is an ordinary name.
  const entries = Object.entries(value).map(([key, item]) => [isNamed ? payload : key, poisoned(item, payload, key)]);
  return JSON.parse(`{${entries.map(([key, item]) => `${JSON.stringify(key)}:${JSON.stringify(item)}`).join(",")}}`);
}

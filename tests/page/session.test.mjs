/** How the page is served, and how its login works. */

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { ADMIN_TOKEN } from "../harness/control.mjs";
import { send } from "../harness/request.mjs";
import { startWorkerd } from "../harness/workerd.mjs";
import { loaded, logIn, openTab, playFixture, startBrowser } from "./browser.mjs";

describe("the page's files and login", () => {
  let browser, limiter;
  before(async () => {
    [browser, limiter] = await Promise.all([startBrowser(), startWorkerd({ vars: { ADMIN_TOKEN, RATE_LIMIT_ADMIN: "5,60,300" } })]);
  });
  after(() => Promise.all([browser?.close(), limiter?.stop()]));

  const contexts = [];
  const tabOf = async (options) => {
    const opened = await openTab(browser, options);
    contexts.push(opened.context);
    return opened;
  };
  afterEach(() => Promise.all(contexts.splice(0).map((context) => context.close())));

  it("the Worker serves the files with their types, answers 304 to known ones, and does not limit them", async () => {
    for (const [path, type] of [["", "text/html"], ["/", "text/html"], ["/page.js", "text/javascript"], ["/page.css", "text/css"]]) {
      const answer = await send(limiter.url, { path: `/_limiter${path}` });
      const { etag, ...headers } = answer.headers;
      assert.equal(answer.status, 200, path);
      assert.equal(headers["content-type"], `${type}; charset=utf-8`);
      assert.match(headers["content-security-policy"], /^default-src 'none'; script-src 'self';/);
      assert.equal(headers["x-ratelimit-limit"], undefined);
      assert.ok(answer.body.length > 300, `${path} has ${answer.body.length} bytes`);
      assert.match(etag, /^W\/"[0-9a-f]{16}"$/);
      for (const known of [etag, etag.slice(2), `"other", ${etag}`]) {
        const again = await send(limiter.url, { path: `/_limiter${path}`, headers: { "If-None-Match": known } });
        assert.deepEqual([again.status, again.body.length, again.headers.etag], [304, 0, etag], known);
      }
      assert.equal((await send(limiter.url, { path: `/_limiter${path}`, headers: { "If-None-Match": '"other"' } })).status, 200);
      const head = await send(limiter.url, { method: "HEAD", path: `/_limiter${path}` });
      assert.deepEqual([head.status, head.body.length, head.headers.etag], [200, 0, etag]);
    }
    assert.equal((await send(limiter.url, { path: "//_limiter/" })).status, 404);
    assert.equal((await send(limiter.url, { method: "POST", path: "/_limiter/" })).status, 405);
  });

  it("the page opens with the token and Enter, and keeps the token for the tab, never in a URL", async () => {
    const { tab, context, complaints } = await tabOf();
    const urls = [];
    context.on("request", (request) => urls.push(request.url(), request.headers().referer ?? ""));
    await tab.goto(`${limiter.url}/_limiter`);
    assert.equal(await tab.evaluate(() => document.activeElement.type), "password");
    await logIn(tab, limiter);
    await loaded(tab);
    assert.equal(await tab.getByRole("navigation").count(), 1);
    assert.deepEqual(await tab.getByRole("navigation").getByRole("link").allTextContents(), ["Traffic", "Events", "Callers", "Blocks", "Policies", "Store"]);
    await tab.reload();
    await loaded(tab);
    const kept = await tab.evaluate(() => ({ session: Object.values(sessionStorage), local: localStorage.length, cookie: document.cookie, title: document.title }));
    assert.deepEqual(kept, { session: [ADMIN_TOKEN], local: 0, cookie: "", title: "Traffic · edge-limiter" });
    const other = await context.newPage();
    await other.goto(`${limiter.url}/_limiter/`);
    await other.getByLabel("Admin token").waitFor();
    assert.deepEqual(urls.filter((url) => url.includes(ADMIN_TOKEN)), []);
    assert.deepEqual([...new Set(urls.filter(Boolean).map((url) => new URL(url).origin))], [limiter.url], "the page sent a request to another host");

    await tab.getByRole("button", { name: "Forget token" }).click();
    await tab.getByLabel("Admin token").waitFor();
    assert.equal(await tab.evaluate(() => sessionStorage.length), 0);
    assert.deepEqual(complaints, []);
  });

  it("the page refuses a wrong token, and says how long to wait after too many", async () => {
    const { tab, complaints } = await tabOf({ extraHTTPHeaders: { "CF-Connecting-IP": "198.18.0.99" } });
    await tab.goto(`${limiter.url}/_limiter/`);
    const field = tab.getByLabel("Admin token");
    const alert = tab.getByRole("alert");
    for (const wrong of ["wrong", "with blank", "smörgås"]) {
      await field.fill(wrong);
      await tab.keyboard.press("Enter");
      await alert.getByText("This token is not accepted.").waitFor();
    }
    for (let guess = 0; guess < 6; guess += 1) {
      const answered = tab.waitForResponse("**/policies");
      await field.fill(`guess-${guess}`);
      await tab.keyboard.press("Enter");
      if ((await (await answered).status()) === 429) break;
    }
    await alert.getByText(/^Too many wrong tokens came from this address\. Try again in (300|29\d) s\.$/).waitFor();
    assert.equal(await tab.getByRole("button", { name: "Open" }).isDisabled(), true);
    assert.equal(await tab.evaluate(() => sessionStorage.length), 0);
    assert.deepEqual(complaints, []);
  });

  it("the page asks for the token again when it is no longer accepted", async () => {
    const { tab } = await tabOf();
    let isAccepted = true;
    await playFixture(tab, () => (isAccepted ? undefined : { status: 401, json: { error: "unauthorized", message: "" } }));
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    isAccepted = false;
    await tab.getByRole("button", { name: "Refresh" }).click();
    await tab.getByRole("alert").getByText("This token is not accepted any more.").waitFor();
    await tab.getByLabel("Admin token").waitFor();
    isAccepted = true;
    await tab.getByLabel("Admin token").fill(ADMIN_TOKEN);
    await tab.keyboard.press("Enter");
    await tab.getByRole("heading", { name: "Blocks", exact: true }).waitFor();
  });

  it("the page keeps a new token when a call with the previous token fails afterwards", async () => {
    const { tab } = await tabOf();
    await playFixture(tab);
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    let release;
    const released = new Promise((resolve) => (release = resolve));
    let calls = 0;
    await tab.route("**/_limiter/policies", async (route) => {
      calls += 1;
      if (calls > 1) return route.fallback();
      await released;
      return route.fulfill({ status: 401, json: { error: "unauthorized", message: "" } });
    });
    await tab.reload();
    await tab.getByRole("button", { name: "Forget token" }).click();
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    const refused = tab.waitForResponse((response) => response.status() === 401);
    release();
    await refused;
    // After this refresh the page has certainly handled the 401.
    await tab.getByRole("button", { name: "Refresh" }).click();
    await loaded(tab);
    assert.deepEqual(await tab.evaluate(() => Object.values(sessionStorage)), [ADMIN_TOKEN]);
    assert.equal(await tab.getByRole("alert").innerText(), "");
  });

  it("the page loads the policies again if the first call for them failed", async () => {
    const { tab } = await tabOf();
    let isFailing = false;
    await playFixture(tab, (_, path) => isFailing && path === "policies" && { status: 500, json: { error: "internal", message: "This call failed." } });
    await logIn(tab, limiter, "#/events");
    await loaded(tab);
    isFailing = true;
    await tab.reload();
    await tab.getByRole("alert").getByText("This call failed.").waitFor();
    isFailing = false;
    await tab.getByRole("button", { name: "Refresh" }).click();
    await tab.getByText(/^Over the quota of auth: 30 /).first().waitFor();
    assert.equal(await tab.getByText("not configured any more").count(), 0);
    assert.equal(await tab.getByRole("alert").innerText(), "");
  });

  it("the page reports that the limiter does not answer, keeps its data, and continues once it answers", async () => {
    const { tab } = await tabOf();
    let failure;
    await playFixture(tab, () => failure);
    await logIn(tab, limiter, "#/blocks");
    await loaded(tab);
    failure = { status: 503, json: { error: "store_unavailable", message: "The shared store failed: it is slow. Try again." } };
    await tab.getByRole("button", { name: "Refresh" }).click();
    await tab.getByRole("alert").getByText("The shared store failed: it is slow. Try again.").waitFor();
    assert.equal(await tab.getByText("198.51.100.0/24").first().isVisible(), true);
    failure = undefined;
    await tab.getByRole("button", { name: "Refresh" }).click();
    await tab.getByRole("alert").getByText("The shared store failed").waitFor({ state: "detached" });
    await tab.unroute("**/_limiter/**");
    await tab.route("**/_limiter/**", (route) => route.abort());
    await tab.getByRole("button", { name: "Refresh" }).click();
    await tab.getByRole("alert").getByText("The limiter does not answer.").waitFor();
  });
});

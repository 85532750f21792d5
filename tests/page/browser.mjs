/** Headless Chromium for the tests and screenshots of the page. */

import { chromium } from "playwright-core";
import { ADMIN_TOKEN, OPERATOR } from "../harness/control.mjs";
import { chromiumPath } from "../../scripts/chromium.mjs";
import { answer } from "./fixture.mjs";

/** How long an action may take, on a busy machine. */
const TIMEOUT_MS = 30_000;

export async function startBrowser() {
  const root = process.getuid?.() === 0;
  return chromium.launch({ executablePath: chromiumPath(), headless: true, args: root ? ["--no-sandbox"] : [], chromiumSandbox: !root });
}

/**
 * Opens a tab, and collects its page's complaints: errors, failed loads and violations of the content security policy.
 *
 * @param {import("playwright-core").Browser} browser
 * @param {object} [options] of the context, as Playwright takes them
 */
export async function openTab(browser, options = {}) {
  // The platform sets this header. workerd alone does not.
  const context = await browser.newContext({ extraHTTPHeaders: { "CF-Connecting-IP": OPERATOR }, ...options });
  context.setDefaultTimeout(TIMEOUT_MS);
  const tab = await context.newPage();
  const complaints = [];
  tab.on("console", (message) => {
    // Many tests provoke a status of 4xx or 5xx, which the console reports as a failed load.
    if (["error", "warning"].includes(message.type()) && !/Failed to load resource/.test(message.text())) complaints.push(message.text());
  });
  tab.on("pageerror", (error) => complaints.push(String(error)));
  tab.on("dialog", (dialog) => {
    complaints.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await tab.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
  });
  return { tab, context, complaints };
}

/** Opens the page at a hash, and logs in. */
export async function logIn(tab, limiter, hash = "", token = ADMIN_TOKEN) {
  await tab.goto(`${limiter.url}/_limiter/${hash}`);
  await tab.getByLabel("Admin token").fill(token);
  await tab.keyboard.press("Enter");
  await tab.getByRole("navigation").waitFor();
}

/**
 * Makes the fixture answer calls in place of the limiter. The limiter still serves the page's files.
 *
 * @param {(method: string, path: string) => object | undefined | false} [first] answers before the fixture, if it returns an answer
 * @param {number} [now] the fixture's time, in ms since the epoch; default: the time of each call
 */
export async function playFixture(tab, first = () => undefined, now = undefined) {
  await tab.route("**/_limiter/**", (route) => {
    const request = route.request();
    const path = request.url().replace(/^.*?\/_limiter\//, "");
    const found = path === "" || path.startsWith("page.") ? undefined : (first(request.method(), path) || answer(request.method(), path, now));
    return found ? route.fulfill(found) : route.fallback();
  });
}

/** Waits until the view has loaded. */
export async function loaded(tab) {
  await tab.getByText(/^updated /).waitFor();
  await tab.locator("[aria-busy]").waitFor({ state: "detached" });
}


/**
 * `npm run screenshots`: takes the pictures of the page for README and the docs, and writes them to `docs/images`. The built Worker serves the
 * page. The data are the fixture of the page's tests, at a fixed time, so that an unchanged page gives unchanged pictures.
 */
import { mkdirSync, statSync } from "node:fs";
import path from "node:path";
import { build } from "./build.mjs";
import { Failure, main, root, say } from "./command.mjs";
import { setup } from "./setup.mjs";

const FOLDER = path.join("docs", "images");
/** A larger picture fails, because the repository's history keeps every picture for ever. */
const MAX_BYTES = 200_000;
/** The time that the page shows. */
const NOW = new Date("2026-03-18T15:42:00Z");

const WIDE = { width: 1240, height: 800 };
const PICTURES = [
  { name: "traffic", hash: "#/traffic", viewport: { ...WIDE, height: 880 } },
  { name: "traffic-dark", hash: "#/traffic?window=day&by=denials", viewport: { ...WIDE, height: 880 }, colorScheme: "dark" },
  { name: "events", hash: "#/events?kind=denied&-caller=198.51.100.23", viewport: { ...WIDE, height: 560 } },
  { name: "caller", hash: "#/callers/203.0.113.77", viewport: WIDE },
  { name: "blocks", hash: "#/blocks", viewport: { ...WIDE, height: 680 } },
  { name: "find-a-limit", hash: "#/policies?policy=auth", viewport: WIDE, panel: "Find a limit" },
  { name: "phone", hash: "#/traffic", viewport: { width: 390, height: 844 } },
];

await main(import.meta.url, async () => {
  await build();
  await setup({ chromium: true });
  // Imported after `setup`, because they need node_modules, which may have been missing when this script began.
  const { loaded, logIn, openTab, playFixture, startBrowser } = await import("../tests/page/browser.mjs");
  const { ADMIN_TOKEN } = await import("../tests/harness/control.mjs");
  const { startWorkerd } = await import("../tests/harness/workerd.mjs");
  mkdirSync(path.join(root, FOLDER), { recursive: true });
  const limiter = await startWorkerd({ vars: { ADMIN_TOKEN } });
  const browser = await startBrowser();
  try {
    for (const { name, hash, panel, ...options } of PICTURES) {
      // The page shows the limiter's address. A fixed one keeps the pictures the same.
      const { tab, context } = await openTab(browser, { locale: "en-GB", timezoneId: "UTC", reducedMotion: "reduce", ...options });
      const shown = { url: "http://limiter.example" };
      await tab.route(`${shown.url}/**`, async (route) => {
        const response = await route.fetch({ url: route.request().url().replace(shown.url, limiter.url) });
        await route.fulfill({ response });
      });
      await playFixture(tab, () => undefined, NOW.getTime());
      await tab.clock.setFixedTime(NOW);
      await logIn(tab, shown, hash);
      await loaded(tab);
      const file = path.join(FOLDER, `${name}.png`);
      const target = panel ? tab.locator("section").filter({ has: tab.getByRole("heading", { name: panel }) }) : tab;
      await target.screenshot({ path: path.join(root, file), animations: "disabled" });
      const { size } = statSync(path.join(root, file));
      if (size > MAX_BYTES) throw new Failure(`${file} has ${size} bytes, more than ${MAX_BYTES}: choose a smaller viewport`);
      say(`${file}, ${Math.round(size / 1000)} kB`);
      await context.close();
    }
  } finally {
    await browser.close();
    await limiter.stop();
  }
});

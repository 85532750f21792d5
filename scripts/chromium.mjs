/** Finds Chromium, which the tests of the page and `npm run screenshots` use. Nothing that is deployed needs it. */
import { existsSync } from "node:fs";
import { Failure, output } from "./command.mjs";

/** The usual names and paths of the program. */
const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

/** The program's path, or `undefined` if it is not installed. The environment variable `CHROMIUM` overrides it. */
export function findChromium() {
  const configured = process.env.CHROMIUM;
  if (configured) return existsSync(configured) ? configured : undefined;
  for (const name of NAMES) {
    const path = name.startsWith("/") ? name : output("/bin/sh", ["-c", `command -v ${name}`]);
    if (path && existsSync(path)) return path;
  }
  return undefined;
}

/** The program's path. Call `setup({ chromium: true })` first, which installs it or fails. */
export function chromiumPath() {
  const found = findChromium();
  if (!found) throw new Failure("Chromium is not installed: install it, or set CHROMIUM to its path");
  return found;
}

/** The Chromium in which the tests of the page and its pictures are made. Nothing that is deployed needs one. */
import { existsSync } from "node:fs";
import { Failure, output } from "./command.mjs";

/** Where it is usually found, by name or by path. */
const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

/** The program's path; `undefined`: it is not installed. The environment variable `CHROMIUM` names another. */
export function findChromium() {
  const given = process.env.CHROMIUM;
  if (given) return existsSync(given) ? given : undefined;
  for (const name of NAMES) {
    const path = name.startsWith("/") ? name : output("/bin/sh", ["-c", `command -v ${name}`]);
    if (path && existsSync(path)) return path;
  }
  return undefined;
}

/** Its path where `setup({ chromium: true })` has made sure of it. */
export function chromiumPath() {
  const found = findChromium();
  if (!found) throw new Failure("Chromium is not installed");
  return found;
}

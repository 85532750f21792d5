/** Programs of other projects that the tests and `npm run dev:redis` run. Nothing that is deployed needs one. */
import { existsSync } from "node:fs";
import { onPath } from "../tests/upstash/on-path.mjs";
import { findChromium } from "./chromium.mjs";
import { Failure, run, say } from "./command.mjs";

/** By name: what must be there, Debian's packages of it, what for, and what others type to install it. */
const PROGRAMS = {
  /** Behind a stand-in for Upstash. */
  redis: {
    programs: ["redis-server"],
    debian: ["redis-server"],
    use: "for the tests and `npm run dev:redis` (`npm start` needs none)",
    elsewhere: ["Fedora:          sudo dnf install valkey-compat-redis   (or: redis)", "macOS:           brew install redis"],
  },
  /** Read the files in ops/. */
  prometheus: {
    programs: ["prometheus", "promtool", "amtool"],
    debian: ["prometheus", "prometheus-alertmanager"],
    use: "for the tests of ops/",
    elsewhere: ["macOS:           brew install prometheus alertmanager", "elsewhere:       https://prometheus.io/download/"],
  },
  /** Shows the page for operators. */
  chromium: {
    programs: ["chromium"],
    debian: ["chromium", "fonts-dejavu-core"],
    use: "for the tests of the page (`npm start` needs none); or name one in CHROMIUM",
    elsewhere: ["Fedora:          sudo dnf install chromium", "macOS:           brew install --cask google-chrome"],
  },
};

/** Chromium has many names. */
const isThere = (program) => (program === "chromium" ? findChromium() !== undefined : onPath(program));

/** Installs what is missing of `names` where that needs no question asked, and otherwise says how to. */
export async function ensurePrograms(names) {
  const missing = () => names.map((name) => PROGRAMS[name]).filter(({ programs }) => !programs.every(isThere));
  if (missing().length === 0) return;
  if (process.getuid?.() === 0 && existsSync("/usr/bin/apt-get")) {
    const packages = missing().flatMap(({ debian }) => debian);
    say(`${packages.join(", ")}, which the tests run (apt-get, a minute at the most)`);
    // Runlevel 1 makes Debian's maintainer scripts leave the system-wide services alone.
    const env = { DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
    const quiet = { env, stdio: ["ignore", "ignore", "inherit"] };
    await run("apt-get", ["update", "-qq"], quiet);
    await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], quiet);
    if (missing().length === 0) return;
  }
  const lines = missing().flatMap(({ programs, debian, use, elsewhere }) => [
    `not installed: ${programs.filter((program) => !isThere(program)).join(", ")}; ${use}. Install with`,
    ...[`Debian, Ubuntu:  sudo apt-get install ${debian.join(" ")}`, ...elsewhere].map((line) => `  ${line}`),
  ]);
  throw new Failure(lines.join("\n"));
}

/** Installs programs of other projects that the tests and `npm run dev:redis` run. Nothing that is deployed needs them. */
import { existsSync } from "node:fs";
import { onPath } from "../tests/upstash/on-path.mjs";
import { findChromium } from "./chromium.mjs";
import { Failure, run, say } from "./command.mjs";

/** By name: the programs, Debian's packages that contain them, what they are needed for, and how to install them on other systems. */
const PROGRAMS = {
  /** Runs behind the stand-in for Upstash. */
  redis: {
    programs: ["redis-server"],
    debian: ["redis-server"],
    use: "the tests and `npm run dev:redis` need it (`npm start` does not)",
    elsewhere: ["Fedora:          sudo dnf install valkey-compat-redis   (or: redis)", "macOS:           brew install redis"],
  },
  /** Check the files in ops/. */
  prometheus: {
    programs: ["prometheus", "promtool", "amtool"],
    debian: ["prometheus", "prometheus-alertmanager"],
    use: "the tests of ops/ need them",
    elsewhere: ["macOS:           brew install prometheus alertmanager", "elsewhere:       https://prometheus.io/download/"],
  },
  /** Shows the page for operators. */
  chromium: {
    programs: ["chromium"],
    debian: ["chromium", "fonts-dejavu-core"],
    use: "the tests of the page need it (`npm start` does not); or set CHROMIUM to the path of another",
    elsewhere: ["Fedora:          sudo dnf install chromium", "macOS:           brew install --cask google-chrome"],
  },
};

/** Whether a program is installed. Chromium has many names, so it is looked for separately. */
const isInstalled = (program) => (program === "chromium" ? findChromium() !== undefined : onPath(program));

/** Makes sure that `names` are installed. As root on Debian it installs what is missing; elsewhere it fails and says how to. */
export async function ensurePrograms(names) {
  const missing = () => names.map((name) => PROGRAMS[name]).filter(({ programs }) => !programs.every(isInstalled));
  if (missing().length === 0) return;
  if (process.getuid?.() === 0 && existsSync("/usr/bin/apt-get")) {
    const packages = missing().flatMap(({ debian }) => debian);
    say(`installing ${packages.join(", ")} with apt-get (up to a minute)`);
    // In runlevel 1 Debian's maintainer scripts do not start system-wide services.
    const env = { DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" };
    const quiet = { env, stdio: ["ignore", "ignore", "inherit"] };
    await run("apt-get", ["update", "-qq"], quiet);
    await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], quiet);
    if (missing().length === 0) return;
  }
  const lines = missing().flatMap(({ programs, debian, use, elsewhere }) => [
    `not installed: ${programs.filter((program) => !isInstalled(program)).join(", ")}; ${use}. Install with`,
    ...[`Debian, Ubuntu:  sudo apt-get install ${debian.join(" ")}`, ...elsewhere].map((line) => `  ${line}`),
  ]);
  throw new Failure(lines.join("\n"));
}

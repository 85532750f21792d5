/**
 * `npm run lint`: formatting, clippy for both targets (each sees code that the other does not), documentation, lock files,
 * JavaScript. Every warning is an error here. `npm run lint -- --fix` formats the Rust code first.
 */
import { readFileSync } from "node:fs";
import path from "node:path";
import { Failure, main, root, run, say } from "./command.mjs";
import { checkVersions, setup } from "./setup.mjs";

const WASM = ["--target", "wasm32-unknown-unknown"];
const DENY = ["--", "-D", "warnings"];
/**
 * The project's workspace, and three more whose dependencies are only for measuring or building. Clippy does not lint these: compiling
 * their dependencies would take a minute.
 */
const WORKSPACES = [[], ...["bench/core", "bench/workers", "tools/bindgen"].map((folder) => ["--manifest-path", `${folder}/Cargo.toml`])];
const DOC = { env: { RUSTDOCFLAGS: "-D warnings" } };

await main(import.meta.url, async (args) => {
  await setup();
  if (args.includes("--fix")) for (const workspace of WORKSPACES) await run("cargo", ["fmt", "--all", ...workspace]);

  say("formatting");
  for (const workspace of WORKSPACES) await run("cargo", ["fmt", "--all", "--check", ...workspace]);
  say("lock files");
  checkLockFiles();
  say("JavaScript");
  await run(path.join("node_modules", ".bin", "eslint"), ["--max-warnings", "0", "."]);
  say("clippy, native");
  await run("cargo", ["clippy", "--workspace", "--all-targets", "--locked", ...DENY]);
  say("clippy, wasm32");
  await run("cargo", ["clippy", "-p", "edge-limiter", "-p", "edge-limiter-worker", "--lib", "--locked", ...WASM, ...DENY]);
  say("the bench of the core");
  // Shares the target folder, so that only the library and the bench compile. Criterion, which is for `cargo bench` alone, does not.
  await run("cargo", ["check", "--manifest-path", "bench/core/Cargo.toml", "--target-dir", "target", "--lib", "--bins", "--locked"]);
  say("documentation");
  await run("cargo", ["doc", "--workspace", "--no-deps", "--locked"], DOC);
  await run("cargo", ["doc", "-p", "edge-limiter-worker", "--lib", "--no-deps", "--locked", ...WASM], DOC);
  say("lint: ok");
});

/** Checks that lock files name packages and not their download addresses, which depend on the machine that installs. */
function checkLockFiles() {
  for (const file of ["package-lock.json", "tests/load/package-lock.json", "tests/package/package-lock.json"]) {
    const npm = JSON.parse(readFileSync(path.join(root, file), "utf8")).packages;
    const addresses = Object.keys(npm).filter((name) => "resolved" in npm[name]);
    if (addresses.length > 0) {
      throw new Failure(
        `${file} has download addresses ("resolved"), for example for ${addresses[0]}.\n` +
          "Remove them by running in its folder: npm install --package-lock-only --omit-lockfile-registry-resolved",
      );
    }
  }
  for (const file of ["Cargo.lock", "bench/core/Cargo.lock", "bench/workers/Cargo.lock", "fuzz/Cargo.lock", "tools/bindgen/Cargo.lock"]) {
    const cargo = readFileSync(path.join(root, file), "utf8");
    for (const [, source] of cargo.matchAll(/^source = "(.*)"$/gm)) {
      if (source !== "registry+https://github.com/rust-lang/crates.io-index") throw new Failure(`${file} has a package from another source than crates.io: ${source}`);
    }
  }
  checkVersions();
  // `cargo check` of the fuzz targets needs a C++ compiler, so a lock file that lags behind would show only when somebody fuzzes.
  const [own, onlyForTests] = [libraryDependencies("Cargo.lock"), devDependencies()];
  for (const file of ["bench/core/Cargo.lock", "fuzz/Cargo.lock"]) {
    const locked = libraryDependencies(file);
    const isMissing = (name) => !locked.includes(name) && !onlyForTests.includes(name);
    const different = own.find(isMissing) ?? locked.find((name) => !own.includes(name));
    if (different) {
      throw new Failure(
        `${file} and Cargo.lock differ in a dependency of edge-limiter: ${different}. Bring it up to date:\n` +
          `cargo metadata --format-version 1 --manifest-path ${path.dirname(file)}/Cargo.toml > /dev/null`,
      );
    }
  }
  // The bench's Workers must use the same versions. Otherwise the bench would compare versions, not programs.
  const [ours, floors] = ["Cargo.lock", "bench/workers/Cargo.lock"].map(lockedPackages);
  const other = floors.find((locked) => !locked.startsWith("rust-") && !ours.includes(locked));
  if (other) {
    throw new Failure(
      `bench/workers/Cargo.lock has ${other}, which Cargo.lock does not have. Use the same versions:\n` +
        "cp Cargo.lock bench/workers/ && cargo metadata --format-version 1 --manifest-path bench/workers/Cargo.toml > /dev/null",
    );
  }
}

/** `NAME VERSION` of every package in one of cargo's lock files. */
function lockedPackages(file) {
  const text = readFileSync(path.join(root, file), "utf8");
  return [...text.matchAll(/^name = "(.*)"\nversion = "(.*)"$/gm)].map(([, name, version]) => `${name} ${version}`);
}

/** What the library depends on by one of cargo's lock files. */
function libraryDependencies(file) {
  const text = readFileSync(path.join(root, file), "utf8");
  const found = /^name = "edge-limiter"\nversion = ".*"\ndependencies = \[\n([^\]]*)\]$/m.exec(text);
  if (!found) throw new Failure(`${file} does not list the dependencies of edge-limiter in the form that this check reads.`);
  return [...found[1].matchAll(/"([\w-]+)/g)].map(([, name]) => name);
}

/** What the library needs for its own tests alone. */
function devDependencies() {
  const text = readFileSync(path.join(root, "Cargo.toml"), "utf8");
  const [, list] = /^\[dev-dependencies\]\n((?:[^[\n].*\n|\n)*)/m.exec(text);
  return [...list.matchAll(/^([\w-]+)[ .=]/gm)].map(([, name]) => name);
}

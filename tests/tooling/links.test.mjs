/** The documentation: every link and anchor exists, the index leads to every page, and README stays short. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { root } from "../../scripts/command.mjs";

const MAX_README_LINES = 160;
const INDEX = "docs/README.md";

/** Files with links to pages of this repository on GitHub: the alerts of Prometheus. */
const RUNBOOKS = ["ops/prometheus/rules/alerts.yml"];

/** Every Markdown file that git tracks or would add. */
const pages = filesOf("*.md");

describe("the documentation", () => {
  for (const page of pages) {
    it(`${page} links to files and headings that exist`, () => {
      assert.deepEqual(brokenLinks(page, read(page)), []);
    });
  }

  it("has the sections that alerts link to", () => {
    for (const file of RUNBOOKS) {
      const links = [...read(file).matchAll(/^ *runbook_url: https:\/\/github\.com\/[^/]+\/[^/]+\/blob\/[^/]+\/(\S+)$/gm)].map(([, link]) => link);
      assert.ok(links.length > 0, `${file} has no links`);
      assert.deepEqual(links.filter((link) => problemOf("", link)), [], file);
    }
  });

  it("has no page that its index does not lead to", () => {
    const reached = new Set();
    for (const queue = [INDEX]; queue.length > 0;) {
      const page = queue.pop();
      if (reached.has(page)) continue;
      reached.add(page);
      if (page.startsWith("docs/") && page.endsWith(".md")) queue.push(...linksOf(read(page)).map((link) => targetOf(page, link).file));
    }
    assert.deepEqual(filesOf("docs/*.md").filter((page) => !reached.has(page)), []);
  });

  it("names only files that exist in this repository", () => {
    for (const page of pages.filter((name) => name !== "CHANGELOG.md")) {
      const named = [...withoutFences(read(page)).matchAll(/`((?:src|tests|docs|scripts|npm|worker|ops|tools|examples|bench|fuzz|page)\/[\w./-]+)`/g)];
      const missing = named.map(([, file]) => file).filter((file) => ![".", path.dirname(page)].some((folder) => existsSync(path.join(root, folder, file))));
      // A command or an operator makes the files that git ignores.
      assert.deepEqual(missing.filter((file) => !isIgnored(file)), [], page);
    }
  });

  it("names only tests of the library that exist", () => {
    const named = [...withoutFences(read("docs/guarantees.md")).matchAll(/`([a-z]\w*(?:_\w+){2,})`/g)].map(([, name]) => name);
    assert.ok(named.length > 5);
    assert.deepEqual(named.filter((name) => !isTest(name)), []);
  });

  it(`has a README of at most ${MAX_README_LINES} lines`, () => {
    const lines = read("README.md").trimEnd().split("\n").length;
    assert.ok(lines <= MAX_README_LINES, `README.md has ${lines} lines`);
  });
});

describe("the check of links", () => {
  const page = "docs/page.md";
  const broken = (text) => brokenLinks(page, text);

  it("finds links to files and headings that do not exist", () => {
    assert.deepEqual(broken("[a](nothing.md) [b](../README.md#no-such-heading) [c](#missing)\n# Here\n"), [
      "nothing.md: no such file", "../README.md#no-such-heading: no such heading", "#missing: no such heading",
    ]);
    assert.deepEqual(broken("![a](images/nothing.png)\n\n[b]: nothing.md\n"), ["images/nothing.png: no such file", "nothing.md: no such file"]);
  });

  it("follows GitHub's rule for anchors", () => {
    const text = "# What `a_b` costs, in $ & time?\n## Same\n## Same\n## [A link](x) & *more*\n## `GET /x` – Überblick\n";
    assert.deepEqual([...anchorsOf(text)], ["what-a_b-costs-in---time", "same", "same-1", "a-link--more", "get-x--überblick"]);
  });

  it("ignores links and headings in code", () => {
    assert.deepEqual(broken("```md\n# Fence\n[a](nothing.md)\n```\n`[b](nothing.md)`\n"), []);
    assert.deepEqual(broken("```md\n# Fence\n```\n[c](#fence)\n"), ["#fence: no such heading"]);
  });

  it("ignores links to other hosts", () => {
    assert.deepEqual(broken("[a](https://example.com/nothing) [b](mailto:a@example.com) <https://example.com>"), []);
  });
});

function filesOf(pattern) {
  const { status, stdout } = spawnSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "--", pattern], { cwd: root, encoding: "utf8" });
  assert.equal(status, 0);
  const files = stdout.split("\n").filter((file) => file !== "" && existsSync(path.join(root, file)));
  assert.ok(files.length > 0, pattern);
  return files.sort();
}

function isTest(name) {
  return spawnSync("git", ["grep", "--quiet", `fn ${name}(`, "--", "src"], { cwd: root }).status === 0;
}

function isIgnored(file) {
  return spawnSync("git", ["check-ignore", "--quiet", file], { cwd: root }).status === 0;
}

function read(file) {
  return readFileSync(path.join(root, file), "utf8");
}

/** The text with every line of its fenced blocks emptied. */
function withoutFences(text) {
  let fence;
  return text.split("\n").map((line) => {
    const [, mark] = /^\s*(```+|~~~+)/.exec(line) ?? [];
    const isInside = fence !== undefined || mark !== undefined;
    if (fence === undefined) fence = mark;
    else if (mark?.startsWith(fence)) fence = undefined;
    return isInside ? "" : line;
  }).join("\n");
}

/** The targets of all links and images, inline or by reference. */
function linksOf(text) {
  const prose = withoutFences(text).replaceAll(/(`+)(?!`)[^]*?[^`]\1(?!`)/g, (code) => (code.includes("\n\n") ? code : ""));
  const inline = [...prose.matchAll(/\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"]*")?\s*\)/g)];
  const references = [...prose.matchAll(/^\[[^\]]+\]:\s+<?(\S+?)>?$/gm)];
  const html = [...prose.matchAll(/\b(?:src|href|srcset)="([^"]+)"/g)];
  return [...inline, ...references, ...html].map(([, link]) => link).filter((link) => !/^[a-z][a-z+.-]*:/i.test(link));
}

function targetOf(page, link) {
  const [file, anchor] = link.split("#");
  return { file: file === "" ? page : path.posix.join(path.posix.dirname(page), decodeURIComponent(file)), anchor };
}

function brokenLinks(page, text) {
  return linksOf(text).map((link) => problemOf(page, link, text)).filter(Boolean);
}

/** What is wrong with a link on a page, or `undefined`. */
function problemOf(page, link, text) {
  const { file, anchor } = targetOf(page, link);
  const isItself = file === page;
  if (!isItself && !existsSync(path.join(root, file))) return `${link}: no such file`;
  if (anchor === undefined) return undefined;
  if (!isItself && (statSync(path.join(root, file)).isDirectory() || !file.endsWith(".md"))) return `${link}: an anchor in a file that is not a page`;
  return anchorsOf(isItself ? text : read(file)).has(decodeURIComponent(anchor)) ? undefined : `${link}: no such heading`;
}

/** The anchors that GitHub makes of headings: lower case, `-` for a blank, no punctuation but `-` and `_`. Repeated anchors are numbered. */
function anchorsOf(text) {
  const anchors = new Set();
  for (const [, heading] of withoutFences(text).matchAll(/^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$/gm)) {
    const words = heading.replaceAll(/!?\[([^\]]*)\]\([^)]*\)/g, "$1").replaceAll(/(^|\W)[*_]+(?=\S)|(?<=\S)[*_]+(?=\W|$)/g, "$1");
    const anchor = words.toLowerCase().replaceAll(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, "").replaceAll(" ", "-");
    let free = anchor;
    for (let n = 1; anchors.has(free); n += 1) free = `${anchor}-${n}`;
    anchors.add(free);
  }
  return anchors;
}

/**
 * `npm run size`: the size budget. Cloudflare allows a Worker 64 MiB, so bytes are not scarce. They are limited because each
 * isolate compiles the module when it starts.
 */
import { build, measure } from "./build.mjs";
import { Failure, main } from "./command.mjs";

/**
 * Bytes of JavaScript and WebAssembly together, gzipped at level 9. They were 442,500 when this was set, of which some
 * 41,000 are what reaches any Redis (22,000 the decision and the records in a cluster, 13,000 the configuration of servers
 * and scripts of several commands, 6,000 Redis's own protocol), 9,000 what applications call themselves (verdicts, the
 * control plane's calls without a token, their own keys), 35,000 metrics, their charts and the operator log, 25,000 blocks
 * that change atomically and are restored when Redis loses them, 12,000 the records that lose no caller that is denied a
 * lot, and 16,000 what browsers, origins and identity providers do beyond the simplest case. The rest is room for a fix
 * or a small option. A larger change has to raise this number.
 */
const BUDGET = 445_000;

/** Of the page for operators, which no isolate loads before somebody opens it. */
const PAGE_BUDGET = 120_000;

await main(import.meta.url, async () => {
  await build();
  const { files, total, page } = measure();
  const row = (name, raw, gzipped) => console.log(name.padEnd(28) + String(raw).padStart(12) + String(gzipped).padStart(12));
  row("file", "bytes", "gzipped");
  for (const file of files) row(file.name, file.raw, file.gzipped);
  row("together", files.reduce((sum, file) => sum + file.raw, 0), total);
  row("budget", "", BUDGET);
  row(page.name, page.raw, page.gzipped);
  row("budget of the page", "", PAGE_BUDGET);
  if (total > BUDGET) throw new Failure(`the Worker is ${total - BUDGET} bytes over its budget`);
  if (page.gzipped > PAGE_BUDGET) throw new Failure(`the page is ${page.gzipped - PAGE_BUDGET} bytes over its budget`);
  console.log(`size: ok, ${BUDGET - total} bytes (${Math.round((100 * (BUDGET - total)) / BUDGET)} %) to spare`);
});

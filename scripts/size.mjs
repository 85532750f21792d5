/**
 * `npm run size`: fails if the Worker is over its size budget. Cloudflare allows a Worker 64 MiB, so bytes are not scarce. There is a
 * budget because each isolate compiles the module when it starts.
 */
import { build, measure } from "./build.mjs";
import { Failure, main } from "./command.mjs";

/**
 * The largest allowed size of JavaScript and WebAssembly together, in bytes, gzipped at level 9. The size was 442,500 when this was set.
 * Of these, about
 *   41,000 reach any kind of Redis: 22,000 for decisions and records in a cluster, 13,000 for the configuration of servers and for scripts
 *          of several commands, 6,000 for Redis's own protocol;
 *   35,000 are metrics, their charts and the operator log;
 *   25,000 are blocks that change atomically and are restored when Redis loses them;
 *   16,000 handle what browsers, origins and identity providers do beyond the simplest case;
 *   12,000 are records that never lose a caller who is denied often;
 *    9,000 are calls of applications: verdicts, calls of the control plane without a token, and their own keys.
 * What is left is for a fix or a small option. A larger change has to raise this number.
 */
const BUDGET = 445_000;

/** The same for the page for operators. An isolate loads the page only when somebody opens it. */
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
  if (total > BUDGET) throw new Failure(`the Worker is ${total - BUDGET} bytes over its budget: make it smaller, or raise BUDGET in scripts/size.mjs`);
  if (page.gzipped > PAGE_BUDGET) throw new Failure(`the page is ${page.gzipped - PAGE_BUDGET} bytes over its budget: make it smaller, or raise PAGE_BUDGET in scripts/size.mjs`);
  console.log(`size: ok, ${BUDGET - total} bytes (${Math.round((100 * (BUDGET - total)) / BUDGET)} %) under the budget`);
});

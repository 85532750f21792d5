/**
 * `npm run size`: the size budget. A Worker's code is fetched and compiled at every cold start, and Cloudflare counts it
 * gzipped, so that is what is limited here.
 */
import { build, measure } from "./build.mjs";
import { Failure, main } from "./command.mjs";

/**
 * Bytes of JavaScript and WebAssembly together, gzipped at level 9, a kB being 1000 bytes. Deciding and forwarding take
 * 188 kB of it; blocks, events and the calls of the control plane 63; proven users 12. What is left over is little on purpose.
 */
const BUDGET = 266_000;

await main(import.meta.url, async () => {
  await build();
  const { files, total } = measure();
  const row = (name, raw, gzipped) => console.log(name.padEnd(28) + String(raw).padStart(12) + String(gzipped).padStart(12));
  row("file", "bytes", "gzipped");
  for (const file of files) row(file.name, file.raw, file.gzipped);
  row("together", files.reduce((sum, file) => sum + file.raw, 0), total);
  row("budget", "", BUDGET);
  if (total > BUDGET) throw new Failure(`the Worker is ${total - BUDGET} bytes over its budget`);
  console.log(`size: ok, ${BUDGET - total} bytes (${Math.round((100 * (BUDGET - total)) / BUDGET)} %) to spare`);
});

/**
 * `npm run deploy [-- ARGUMENTS]`: checks the configuration, builds, and runs `wrangler deploy` with the arguments.
 * It does not deploy a configuration that the limiter does not accept.
 */
import path from "node:path";
import { parseArgs } from "node:util";
import { build } from "./build.mjs";
import { checkConfig } from "./check-config.mjs";
import { main, root, run } from "./command.mjs";

await main(import.meta.url, async (args) => {
  const options = { env: { type: "string", short: "e" }, config: { type: "string", short: "c" } };
  const { env, config } = parseArgs({ args, options, strict: false }).values;
  await checkConfig({ env, config, deployed: true });
  await build();
  await run(process.execPath, [path.join(root, "node_modules", "wrangler", "bin", "wrangler.js"), "deploy", ...args]);
});

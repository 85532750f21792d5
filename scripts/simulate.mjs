/**
 * `npm run simulate [-- OPTIONS]`: replays a traffic trace over several regions (tools/simulate). Once compiled, it takes
 * seconds. `npm run simulate -- --help` lists the options. `--write` writes the tables of docs/scaling.md.
 */
import path from "node:path";
import { Failure, ended, main, start } from "./command.mjs";
import { setup } from "./setup.mjs";

await main(import.meta.url, async (args) => {
  await setup();
  // npm runs this in the repository's root, but the path of a trace is relative to the folder in which npm was called.
  const from = process.env.INIT_CWD ?? process.cwd();
  const options = args.map((arg, place) => (args[place - 1] === "--trace" ? path.resolve(from, arg) : arg));
  // The program itself prints what is wrong.
  const simulate = start("cargo", ["run", "--quiet", "--release", "--locked", "--package", "edge-limiter-simulate", "--", ...options]);
  const code = await ended(simulate);
  if (code !== 0) throw new Failure(`the simulation ended with exit code ${code}`, code);
});

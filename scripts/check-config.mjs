/**
 * `npm run check-config [-- --env NAME] [-- --config PATH]`: reads the variables as wrangler would and has the limiter's own
 * parser, compiled natively, judge them. With `--host node` or `--host edge` it reads this process's variables, as the package does
 * there. Names are printed, values never. With `--has NAME` it only says whether that one is set, for `npm start`.
 */
import path from "node:path";
import { parseArgs } from "node:util";
import { Failure, ended, environment, main, root, say, start } from "./command.mjs";
import { setup } from "./setup.mjs";
import { isRead } from "../npm/src/variables.js";

/**
 * Throws unless the limiter accepts the configuration. With `deployed` wrangler.toml has the last word, since `.dev.vars` is not
 * uploaded: its variables then only stand in for the secrets, which cannot be read back from Cloudflare.
 */
export async function checkConfig({ env, config, deployed = false, host = "workers" } = {}) {
  await setup();
  const vars = host === "workers" ? await variables({ env, config, deployed }) : ofProcess(host);
  const child = start("cargo", ["run", "--quiet", "--locked", "--bin", "check-config", "--", host], { stdio: ["pipe", "inherit", "inherit"] });
  child.stdin.on("error", () => {}); // It may end without reading; its exit code says why.
  child.stdin.end(JSON.stringify(vars));
  const code = await ended(child);
  if (code !== 0) throw new Failure(`this configuration is not accepted (exit code ${code})`, code);
}

/** The variables that the package would read in this process. */
function ofProcess(host) {
  if (!HOSTS.includes(host)) throw new Failure(`there is no host ${host}: use ${HOSTS.join(", ")}`, 2);
  const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => isRead(name)));
  say(`reading ${Object.keys(own).length} variables of this process`);
  return own;
}

const HOSTS = ["workers", "edge", "node"];

/**
 * `{NAME: value}`, a value being a string or, for a TOML table or list, what the Worker gets as JSON. Says what it reads, unless
 * it is `quiet`.
 */
async function variables({ env, config, deployed, quiet = false }) {
  Object.assign(process.env, { WRANGLER_SEND_METRICS: environment.WRANGLER_SEND_METRICS });
  const wrangler = await import("wrangler");
  const file = path.resolve(config ?? path.join(root, "wrangler.toml"));
  let parsed, bindings;
  try {
    parsed = wrangler.unstable_readConfig({ config: file, env });
    if (!quiet) say(`reading ${path.relative(process.cwd(), file)}${env ? `, environment ${env}` : ""}`);
    // Says by itself which of .dev.vars, .dev.vars.NAME and .env it uses.
    bindings = wrangler.unstable_getVarsForDev(file, undefined, {}, env, quiet, parsed.secrets);
  } catch (error) {
    throw new Failure(error.message);
  }
  const local = Object.fromEntries(Object.entries(bindings).map(([name, { value }]) => [name, value]));
  if (!deployed) return { ...parsed.vars, ...local };
  const standIns = Object.keys(local).filter((name) => !(name in parsed.vars));
  if (standIns.length > 0) say(`standing in for secrets set at Cloudflare: ${standIns.join(", ")}`);
  return { ...local, ...parsed.vars };
}

await main(import.meta.url, async (args) => {
  const options = { env: { type: "string", short: "e" }, config: { type: "string", short: "c" }, deployed: { type: "boolean" }, host: { type: "string" }, has: { type: "string" } };
  let values;
  try {
    ({ values } = parseArgs({ args, options }));
  } catch (error) {
    throw new Failure(`${error.message}\nusage: npm run check-config [-- [--env NAME] [--config PATH] [--deployed] | --host workers|edge|node]`, 2);
  }
  const { has, ...which } = values;
  if (has === undefined) return checkConfig(which);
  console.log((await variables({ ...which, quiet: true }))[has] ? "yes" : "no");
});

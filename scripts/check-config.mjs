/**
 * `npm run check-config [-- --env NAME] [-- --config PATH]`: reads the variables as wrangler does, and checks them with the limiter's own
 * parser, compiled natively. With `--host node` or `--host edge` it reads this process's variables, as the package does
 * there. It prints names and never values. With `--has NAME` it only prints whether that variable is set, for `npm start`.
 */
import path from "node:path";
import { parseArgs } from "node:util";
import { Failure, ended, environment, main, root, say, start } from "./command.mjs";
import { setup } from "./setup.mjs";
import { isRead } from "../npm/src/variables.js";

/**
 * Throws unless the limiter accepts the configuration. With `deployed`, wrangler.toml overrides `.dev.vars`, which is not
 * uploaded. The variables of `.dev.vars` then only take the place of the secrets, which cannot be read back from Cloudflare.
 */
export async function checkConfig({ env, config, deployed = false, host = "workers" } = {}) {
  await setup();
  const vars = host === "workers" ? await variables({ env, config, deployed }) : processVariables(host);
  const child = start("cargo", ["run", "--quiet", "--locked", "--bin", "check-config", "--", host], { stdio: ["pipe", "inherit", "inherit"] });
  child.stdin.on("error", () => {}); // The program may end before it reads. Its exit code says why.
  child.stdin.end(JSON.stringify(vars));
  const code = await ended(child);
  if (code !== 0) throw new Failure(`the limiter does not accept this configuration (exit code ${code}): correct what is listed above`, code);
}

/** The variables that the package would read in this process. */
function processVariables(host) {
  if (!HOSTS.includes(host)) throw new Failure(`there is no host ${host}: use ${HOSTS.join(", ")}`, 2);
  const vars = Object.fromEntries(Object.entries(process.env).filter(([name]) => isRead(name)));
  say(`reading ${Object.keys(vars).length} variables of this process`);
  return vars;
}

const HOSTS = ["workers", "edge", "node"];

/**
 * The variables as `{NAME: value}`. A value is a string or, for a TOML table or list, the JSON that the Worker gets. Prints which files
 * it reads, unless `quiet`.
 */
async function variables({ env, config, deployed, quiet = false }) {
  Object.assign(process.env, { WRANGLER_SEND_METRICS: environment.WRANGLER_SEND_METRICS });
  const wrangler = await import("wrangler");
  const file = path.resolve(config ?? path.join(root, "wrangler.toml"));
  let parsed, bindings;
  try {
    parsed = wrangler.unstable_readConfig({ config: file, env });
    if (!quiet) say(`reading ${path.relative(process.cwd(), file)}${env ? `, environment ${env}` : ""}`);
    // wrangler itself prints which of .dev.vars, .dev.vars.NAME and .env it uses.
    bindings = wrangler.unstable_getVarsForDev(file, undefined, {}, env, quiet, parsed.secrets);
  } catch (error) {
    throw new Failure(error.message);
  }
  const local = Object.fromEntries(Object.entries(bindings).map(([name, { value }]) => [name, value]));
  if (!deployed) return { ...parsed.vars, ...local };
  const standIns = Object.keys(local).filter((name) => !(name in parsed.vars));
  if (standIns.length > 0) say(`using local values for secrets that are set at Cloudflare: ${standIns.join(", ")}`);
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

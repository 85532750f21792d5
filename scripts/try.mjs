/**
 * `npm run try [-- URL]`: plays several callers and an operator against a limiter that `npm start` serves. For each step it prints what it
 * did, what the limiter answered and where the page shows it. The default URL is http://localhost:8787.
 *
 * Each caller has its own address, sent in `CF-Connecting-IP`. `wrangler dev` passes on this header from the client; Cloudflare
 * would overwrite it. The addresses are reserved for examples (RFC 5737).
 */
import { randomInt } from "node:crypto";
import { request } from "node:http";
import { Failure, main, say } from "./command.mjs";
import { storedToken } from "./token.mjs";

const USAGE = "usage: npm run try [-- http://localhost:PORT]";

/** The only hosts that are allowed. On other machines all callers would have one address, and the limiter could be somebody else's. */
const LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"];

/** The burst stops after this many requests, even if the limit is higher. */
const MAX_BURST = 2000;

const PASSWORD_GUESSES = 40;
const BLOCK_SECONDS = 600;

function baseOf(args) {
  const [argument = "http://localhost:8787", ...more] = args;
  let base;
  try {
    base = new URL(argument);
  } catch {
    // Refused below.
  }
  if (base?.protocol !== "http:" || !LOCAL_HOSTS.includes(base.hostname) || more.length > 0) throw new Failure(`not the URL of a limiter on this machine: ${args.join(" ")}\n${USAGE}`, 2);
  return base;
}

/** A caller within its limits. */
async function normal(limiter, address) {
  say(`1. A normal caller, ${address}, requests / three times`);
  for (let time = 0; time < 3; time++) printAnswer(await limiter.send(address, "GET", "/"));
  printHint("Traffic: three requests admitted. Callers: what this caller has used of each policy");
}

/** A caller who exceeds the limit. */
async function burst(limiter, address) {
  say(`2. A burst: ${address} requests / until it is denied`);
  const [admitted, denied] = await sendUntilDenied(MAX_BURST, () => limiter.send(address, "GET", "/"));
  console.log(`  ${admitted} admitted`);
  if (!denied) return console.log("  none denied: no policy of this configuration limits / to fewer requests");
  printAnswer(denied);
  printHint("Traffic: denials next to admitted requests. Events: one record of the denials, with their count. Callers: denied most");
}

/** A caller who guesses passwords. */
async function bruteForce(limiter, address) {
  say(`3. Brute force: ${address} guesses passwords at /api/auth/login`);
  const [admitted, denied] = await sendUntilDenied(PASSWORD_GUESSES, () => limiter.send(address, "POST", "/api/auth/login"));
  console.log(`  ${admitted} admitted`);
  if (!denied) return console.log(`  none of ${PASSWORD_GUESSES} denied: no policy of this configuration limits logins to fewer requests`);
  printAnswer(denied);
  console.log("  Other policies limit its other requests:");
  printAnswer(await limiter.send(address, "GET", "/"));
  printHint("Blocks: the policy's own block of this caller, and until when. Events: the denials, with their count");
}

/** An operator who blocks an address and lifts the block. */
async function operator(limiter, address) {
  say(`4. An operator blocks ${address} for ten minutes`);
  await limiter.control("PUT", `blocked/${address}`, { seconds: BLOCK_SECONDS, reason: "npm run try" });
  printAnswer(await limiter.send(address, "GET", "/"));
  printHint("Blocks: the address, who blocked it and why. A button there lifts the block as well");
  say(`5. The operator lifts the block of ${address}`);
  await limiter.control("DELETE", `blocked/${address}`);
  printAnswer(await limiter.send(address, "GET", "/"));
  printHint("Blocks: the address is gone. Events: what was denied meanwhile");
}

/** Sends requests until one is denied, but at most `max`. Returns how many were admitted, and the denial if there was one. */
async function sendUntilDenied(max, send) {
  for (let admitted = 0; admitted < max; admitted++) {
    const answer = await send();
    if (answer.status === 429) return [admitted, answer];
  }
  return [max];
}

/** Prints the parts of an answer that matter to a client. */
function printAnswer({ sent, status, headers, text }) {
  const shown = ["x-ratelimit-type", "x-ratelimit-limit", "x-ratelimit-remaining", "retry-after"].filter((name) => headers[name] !== undefined);
  console.log(`  ${sent}: ${[status, ...shown.map((name) => `${name}: ${headers[name]}`)].join(", ")}`);
  const message = status === 429 ? messageOf(text) : undefined;
  if (message) console.log(`    ${message}`);
}

function printHint(where) {
  console.log(`  On the page, ${where}.\n`);
}

function messageOf(text) {
  try {
    return JSON.parse(text).message;
  } catch {
    return undefined;
  }
}

class Limiter {
  #base;
  #token;

  constructor(base, token) {
    this.#base = base;
    this.#token = token;
  }

  /** Throws unless the control plane accepts the token. */
  async assertOpen() {
    await this.control("GET", "blocked?limit=1");
  }

  /** Sends a caller's request. */
  send(address, method, path) {
    return this.#request(method, path, { "CF-Connecting-IP": address });
  }

  /** Sends an operator's call. Throws unless it succeeds. */
  async control(method, path, json) {
    const body = json && JSON.stringify(json);
    const answer = await this.#request(method, `/_limiter/${path}`, { Authorization: `Bearer ${this.#token}` }, body);
    if (answer.status !== 200) throw new Failure(`${answer.sent}: ${answer.status} ${messageOf(answer.text) ?? ""}`);
    if (json || method === "DELETE") console.log(`  ${answer.sent}${body ? ` ${body}` : ""}: ${answer.status}`);
  }

  #request(method, path, headers, body) {
    const { hostname, port, origin } = this.#base;
    return new Promise((resolve, reject) => {
      const refuse = (error) => reject(new Failure(`no limiter answers on ${origin} (${error.code ?? error.message}): is npm start running?`));
      const length = body === undefined ? {} : { "Content-Length": Buffer.byteLength(body) };
      const sending = request({ hostname: hostname.replace(/[[\]]/g, ""), port, method, path, headers: { ...headers, ...length } }, (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (part) => (text += part)).on("error", refuse);
        response.on("end", () => resolve({ sent: `${method} ${path}`, status: response.statusCode, headers: response.headers, text }));
      });
      sending.on("error", refuse).end(body);
    });
  }
}

await main(import.meta.url, async (args) => {
  const base = baseOf(args);
  const token = process.env.ADMIN_TOKEN || storedToken(base.port || "80");
  if (!token) throw new Failure(`no token for ${base.origin}: start the limiter with npm start. If you have set your own ADMIN_TOKEN, set it in this environment too`);
  const limiter = new Limiter(base, token);
  await limiter.assertOpen();
  const last = randomInt(1, 255); // Other addresses in each run, because those of the last run may still be blocked.
  await normal(limiter, `192.0.2.${last}`);
  await burst(limiter, `198.51.100.${last}`);
  await bruteForce(limiter, `203.0.113.${last}`);
  await operator(limiter, `192.0.2.${last}`);
  say(`see all of it on the page: ${base.origin}/_limiter/`);
});

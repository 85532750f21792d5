/**
 * `npm run try [-- URL]`: plays callers and an operator before a limiter that `npm start` serves, and says of each step what was
 * done, what came of it and where the page shows it. The default is http://localhost:8787.
 *
 * Each caller has an address: `wrangler dev` leaves a `CF-Connecting-IP` that a client sends, which Cloudflare replaces by the
 * client's own. The addresses are those that RFC 5737 sets apart for examples.
 */
import { randomInt } from "node:crypto";
import { request } from "node:http";
import { Failure, main, say } from "./command.mjs";
import { leftToken } from "./token.mjs";

const USAGE = "usage: npm run try [-- http://localhost:PORT]";

/** Only on this machine: elsewhere the callers would be one, and a stranger's limiter is nobody's to try. */
const LOCAL = ["localhost", "127.0.0.1", "[::1]"];

/** A limit that is not met in so many requests is not tried out. */
const MAX_BURST = 2000;

const GUESSES = 40;
const BLOCK_SECONDS = 600;

function baseOf(args) {
  const [given = "http://localhost:8787", ...more] = args;
  let base;
  try {
    base = new URL(given);
  } catch {
    // Refused below.
  }
  if (base?.protocol !== "http:" || !LOCAL.includes(base.hostname) || more.length > 0) throw new Failure(`not a limiter on this machine: ${args.join(" ")}\n${USAGE}`, 2);
  return base;
}

/** Somebody who comes now and then. */
async function normal(limiter, address) {
  say(`1. A normal caller, ${address}, asks for / three times`);
  for (let time = 0; time < 3; time++) tell(await limiter.send(address, "GET", "/"));
  look("Traffic: three requests admitted. Callers: what it has used of each policy");
}

/** Somebody who asks for more than the limit. */
async function burst(limiter, address) {
  say(`2. A burst: ${address} asks for / as often as it can`);
  const [admitted, denied] = await until(limiter, MAX_BURST, () => limiter.send(address, "GET", "/"));
  console.log(`  ${admitted} admitted`);
  if (!denied) return console.log("  none denied: nothing limits / here");
  tell(denied);
  look("Traffic: denials beside what is admitted. Events: one denied, with its count. Callers: denied most");
}

/** Somebody who tries passwords. */
async function bruteForce(limiter, address) {
  say(`3. Brute force: ${address} tries passwords at /api/auth/login`);
  const [admitted, denied] = await until(limiter, GUESSES, () => limiter.send(address, "POST", "/api/auth/login"));
  console.log(`  ${admitted} admitted`);
  if (!denied) return console.log(`  none of ${GUESSES} denied: no policy of this configuration limits logins so`);
  tell(denied);
  console.log("  What else it asks for is limited by other policies:");
  tell(await limiter.send(address, "GET", "/"));
  look("Blocks: the policy's own block of this caller, until when. Events: denied, with the count");
}

/** An operator, who blocks an address and lifts that. */
async function operator(limiter, address) {
  say(`4. An operator blocks ${address} for ten minutes`);
  await limiter.control("PUT", `blocked/${address}`, { seconds: BLOCK_SECONDS, reason: "npm run try" });
  tell(await limiter.send(address, "GET", "/"));
  look("Blocks: the address, by whom and why; it is lifted there as well");
  say(`5. The operator lifts the block of ${address}`);
  await limiter.control("DELETE", `blocked/${address}`);
  tell(await limiter.send(address, "GET", "/"));
  look("Blocks: it is gone. Events: what was denied meanwhile");
}

/** Sends until one is denied: how many were admitted, and that one. */
async function until(limiter, most, send) {
  for (let admitted = 0; admitted < most; admitted++) {
    const answer = await send();
    if (answer.status === 429) return [admitted, answer];
  }
  return [most];
}

/** What a client sees of an answer. */
function tell({ sent, status, headers, text }) {
  const shown = ["x-ratelimit-type", "x-ratelimit-limit", "x-ratelimit-remaining", "retry-after"].filter((name) => headers[name] !== undefined);
  console.log(`  ${sent}: ${[status, ...shown.map((name) => `${name}: ${headers[name]}`)].join(", ")}`);
  const message = status === 429 ? messageOf(text) : undefined;
  if (message) console.log(`    ${message}`);
}

function look(where) {
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

  /** Throws unless the token opens the control plane. */
  async assertOpen() {
    await this.control("GET", "blocked?limit=1");
  }

  /** A request of a caller. */
  send(address, method, path) {
    return this.#ask(method, path, { "CF-Connecting-IP": address });
  }

  /** A call of the operator, which must succeed. */
  async control(method, path, json) {
    const body = json && JSON.stringify(json);
    const answer = await this.#ask(method, `/_limiter/${path}`, { Authorization: `Bearer ${this.#token}` }, body);
    if (answer.status !== 200) throw new Failure(`${answer.sent}: ${answer.status} ${messageOf(answer.text) ?? ""}`);
    if (json || method === "DELETE") console.log(`  ${answer.sent}${body ? ` ${body}` : ""}: ${answer.status}`);
  }

  #ask(method, path, headers, body) {
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
  const token = process.env.ADMIN_TOKEN || leftToken(base.port || "80");
  if (!token) throw new Failure(`no token for ${base.origin}: start it with npm start; if ADMIN_TOKEN is your own, have it in the environment here too`);
  const limiter = new Limiter(base, token);
  await limiter.assertOpen();
  const last = randomInt(1, 255); // Anew each time: those of before may still be blocked.
  await normal(limiter, `192.0.2.${last}`);
  await burst(limiter, `198.51.100.${last}`);
  await bruteForce(limiter, `203.0.113.${last}`);
  await operator(limiter, `192.0.2.${last}`);
  say(`all of it: ${base.origin}/_limiter/`);
});

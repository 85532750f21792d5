/** Parses REST requests: one command, a pipeline, or a transaction. https://upstash.com/docs/redis/features/restapi */

/** A request that cannot be parsed. It is answered with 400, and the message becomes `error`. */
export class BadRequest extends Error {}

/**
 * Commands that change the connection's state or block it. All callers share the stand-in's connection, so one caller's `SELECT` or
 * `BLPOP` would affect all of them.
 */
const REFUSED = new Set(
  `AUTH BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN CLIENT DEBUG DISCARD EXEC FAILOVER HELLO MONITOR MULTI
   PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT REPLCONF REPLICAOF RESET SELECT SHUTDOWN SLAVEOF SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC
   UNSUBSCRIBE UNWATCH WAIT WATCH`.split(/\s+/),
);

/** Returns whether a command is not available over REST. `XREAD` and `XREADGROUP` are refused only if they would block. */
export function isRefused([name, ...rest]) {
  const upper = String(name).toUpperCase();
  if (upper === "XREAD" || upper === "XREADGROUP") return rest.some((arg) => String(arg).toUpperCase() === "BLOCK");
  return REFUSED.has(upper);
}

/**
 * @param {{method: string, url: string, body: Buffer}} request
 * @returns {{mode: "single" | "pipeline" | "multi-exec", commands: (string | Buffer)[][]}}
 * @throws {BadRequest}
 */
export function parse({ method, url, body }) {
  const { pathname, searchParams } = new URL(url, "http://stand-in");
  const writes = method === "POST" || method === "PUT";
  if (writes && pathname === "/") return { mode: "single", commands: [command(json(body))] };
  if (writes && (pathname === "/pipeline" || pathname === "/multi-exec")) {
    const list = json(body);
    if (!Array.isArray(list) || list.length === 0) throw new BadRequest("ERR expected a list of commands");
    return { mode: pathname.slice(1), commands: list.map(command) };
  }
  const args = pathname.slice(1).split("/").map(decode);
  if (args[0] === "") throw new BadRequest("ERR empty command");
  if (writes && body.length > 0) args.push(body);
  for (const [name, value] of searchParams) {
    if (name === "_token") continue; // Upstash also accepts the token here, so it is never an argument
    args.push(name);
    if (value !== "") args.push(value);
  }
  return { mode: "single", commands: [args] };
}

function json(body) {
  try {
    return JSON.parse(body.toString("utf8"));
  } catch {
    throw new BadRequest("ERR failed to parse the request body as JSON");
  }
}

function command(list) {
  if (!Array.isArray(list)) throw new BadRequest("ERR a command is a JSON array");
  if (list.length === 0) throw new BadRequest("ERR empty command");
  return list.map((arg) => {
    if (typeof arg === "string") return arg;
    if (typeof arg === "number" || typeof arg === "boolean") return String(arg);
    throw new BadRequest("ERR an argument is a string, a number or a boolean");
  });
}

function decode(segment) {
  try {
    return decodeURIComponent(segment);
  } catch {
    throw new BadRequest("ERR bad percent-encoding in the path");
  }
}

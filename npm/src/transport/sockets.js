/** A transport to one Redis over TCP or TLS, in Cloudflare Workers. */
import { connect as open } from "cloudflare:sockets";
import { FAILED, SUCCESS, TIMED_OUT } from "../statuses.js";

/** The servers that this transport reaches: one server over TCP, no Sentinel and no cluster (src/wire/redis.rs). */
export const REACH = 1;

/** Statuses of `read`: the reply is incomplete, or Redis refused the command. */
const MORE = 0;
const REFUSED = 400;

const encoder = new TextEncoder();

/**
 * A transport that opens a connection for each call, because in Workers a request cannot use a socket that another one opened. A client that
 * disconnects ends its request, and the runtime then closes the request's sockets.
 *
 * @param {{nodes: {host: string, port: number}[], username?: string, password?: string, database: number, tls: boolean}} redis
 * @param {(state: string, bytes: Uint8Array) => [status: number, read: number, needed: number, text: string]} read
 * @returns {import("./rest.js").Transport}
 */
export function connect({ nodes: [{ host, port }], username, password, database, tls }, read) {
  const address = { hostname: host.includes(":") ? `[${host}]` : host, port };
  const options = { secureTransport: tls ? "on" : "off", allowHalfOpen: false };
  const setupCommands = [];
  if (username) setupCommands.push(["AUTH", username, password ?? ""]);
  else if (password) setupCommands.push(["AUTH", password]);
  if (database > 0) setupCommands.push(["SELECT", String(database)]);

  const prologue = setupCommands.map(encoded).join("");
  let isAccepted = prologue === "";
  return { call };

  async function call(body, timeout) {
    let socket;
    try {
      const command = encoded(JSON.parse(body));
      socket = open(address, options);
      // A failure is reported by what `exchange` awaits. These two would be unhandled rejections.
      for (const promise of [socket.opened, socket.closed]) promise.catch(() => {});
      const signal = AbortSignal.timeout(timeout);
      const late = new Promise((resolve) => signal.addEventListener("abort", () => resolve([TIMED_OUT, ""])));
      return await Promise.race([exchange(socket, command), late]);
    } catch {
      return [FAILED, ""];
    } finally {
      socket?.close().catch(() => {});
    }
  }

  /**
   * Sends everything in one write, but only after an earlier call has shown that Redis accepts user and database. Redis runs a command even if
   * those before it were refused, and would run it as another user or in another database.
   */
  async function exchange(socket, command) {
    const writer = socket.writable.getWriter();
    const reader = socket.readable.getReader();
    // If a write fails, the read fails too and reports it.
    const send = (text) => writer.write(encoder.encode(text)).catch(() => {});
    let replies = 1;
    if (isAccepted) {
      replies += setupCommands.length;
      send(prologue + command);
    } else {
      send(prologue);
      const answer = await lastReply(reader, setupCommands.length, read);
      if (answer[0] !== SUCCESS || answer[1] === "") return answer;
      isAccepted = true;
      send(command);
    }
    const answer = await lastReply(reader, replies, read);
    // The refused command may have been one of the setup commands.
    if (answer[0] === REFUSED && setupCommands.length > 0) isAccepted = false;
    return answer;
  }
}

/** Reads as many replies as `replies` says. Returns the last one, or the first error. */
async function lastReply(reader, replies, read) {
  let state = `0 ${replies}`;
  let [result, needed] = ["", 1];
  let arrived = new Pieces();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return [FAILED, ""];
    arrived.add(value);
    if (arrived.length < needed) continue;
    const bytes = arrived.joined();
    const [status, length, more, text] = read(state, bytes);
    if (status === REFUSED) return [status, JSON.stringify({ error: text })];
    // A malformed reply becomes an empty answer, which the module refuses.
    if (status !== MORE) return [SUCCESS, status === SUCCESS ? `{"result":${result}${text}}` : ""];
    const end = text.indexOf("\n");
    state = text.slice(0, end);
    result += text.slice(end + 1);
    needed = more;
    arrived = new Pieces(bytes.subarray(length));
  }
}

/** Collects bytes as they arrive, and joins them only when there are enough. */
class Pieces {
  #list;
  length;

  constructor(first = new Uint8Array()) {
    this.#list = [first];
    this.length = first.length;
  }

  add(piece) {
    this.#list.push(piece);
    this.length += piece.length;
  }

  joined() {
    const filled = this.#list.filter(({ length }) => length > 0);
    if (filled.length === 1) return filled[0];
    const whole = new Uint8Array(this.length);
    let at = 0;
    for (const piece of filled) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }
}

/** A command in Redis's protocol: the number of its words, then each word after its length in bytes. */
function encoded(words) {
  let text = `*${words.length}\r\n`;
  for (const word of words) text += `$${encoder.encode(word).length}\r\n${word}\r\n`;
  return text;
}

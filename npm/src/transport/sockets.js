/** One Redis over TCP or TLS in Cloudflare Workers. */
import { connect as open } from "cloudflare:sockets";
import { FAILED, TIMED_OUT, WELL } from "../statuses.js";

/** What the host reaches (src/wire/redis.rs). */
export const REACH = 1;

/** Statuses of `read`: more is to come, an error of Redis. */
const MORE = 0;
const REFUSED = 400;

const encoder = new TextEncoder();

/**
 * Each call has a connection: in Workers a request cannot use what another one opened. A client that disconnects ends its
 * request, and the runtime then closes the request's sockets.
 *
 * @param {{nodes: {host: string, port: number}[], username?: string, password?: string, database: number, tls: boolean}} redis
 * @param {(state: string, bytes: Uint8Array) => [status: number, read: number, needed: number, text: string]} read
 * @returns {import("./rest.js").Transport}
 */
export function connect({ nodes: [{ host, port }], username, password, database, tls }, read) {
  const address = { hostname: host.includes(":") ? `[${host}]` : host, port };
  const options = { secureTransport: tls ? "on" : "off", allowHalfOpen: false };
  const before = [];
  if (username) before.push(["AUTH", username, password ?? ""]);
  else if (password) before.push(["AUTH", password]);
  if (database > 0) before.push(["SELECT", String(database)]);

  const prologue = before.map(encoded).join("");
  let isAccepted = prologue === "";
  return { call };

  async function call(body, timeout) {
    let socket;
    try {
      const command = encoded(JSON.parse(body));
      socket = open(address, options);
      // What is awaited fails with them.
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
   * Sends everything in one write, once Redis has accepted user and database: it runs a command although those before it are
   * refused, and would run this one as another user or in another database.
   */
  async function exchange(socket, command) {
    const writer = socket.writable.getWriter();
    const reader = socket.readable.getReader();
    // Reading fails as well, and says so.
    const send = (text) => writer.write(encoder.encode(text)).catch(() => {});
    let replies = 1;
    if (isAccepted) {
      replies += before.length;
      send(prologue + command);
    } else {
      send(prologue);
      const answer = await answerOf(reader, before.length, read);
      if (answer[0] !== WELL || answer[1] === "") return answer;
      isAccepted = true;
      send(command);
    }
    const answer = await answerOf(reader, replies, read);
    // Whichever it was that is refused.
    if (answer[0] === REFUSED && before.length > 0) isAccepted = false;
    return answer;
  }
}

/** The answer to the last of so many commands, or the first error. */
async function answerOf(reader, replies, read) {
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
    // What is no reply is no answer either.
    if (status !== MORE) return [WELL, status === WELL ? `{"result":${result}${text}}` : ""];
    const end = text.indexOf("\n");
    state = text.slice(0, end);
    result += text.slice(end + 1);
    needed = more;
    arrived = new Pieces(bytes.subarray(length));
  }
}

/** Bytes as they arrive, joined when there are enough. */
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

/** A command as Redis reads it: the number of its words, and each after its length in bytes. */
function encoded(words) {
  let text = `*${words.length}\r\n`;
  for (const word of words) text += `$${encoder.encode(word).length}\r\n${word}\r\n`;
  return text;
}

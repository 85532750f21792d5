/**
 * RESP2, the protocol between a client and Redis: https://redis.io/docs/latest/develop/reference/protocol-spec/
 *
 * Implemented here because client libraries lose what the stand-in needs: whether a string was a status, all digits of a
 * 64-bit integer, the bytes of a value.
 *
 * A reply is `null`, a `bigint`, a `Buffer` (bulk string), a `Status`, a `ReplyError`, or an array of replies.
 */

/** A simple string, such as `OK`. */
export class Status {
  constructor(text) {
    this.text = text;
  }
}

/** An error reply. It is a value and not an exception, because one command of several may fail. */
export class ReplyError {
  constructor(text) {
    this.text = text;
  }
}

/** Encodes one command. Each argument is a string or a Buffer. */
export function encode(args) {
  const parts = [Buffer.from(`*${args.length}\r\n`)];
  for (const arg of args) {
    const bytes = Buffer.from(arg);
    parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from("\r\n"));
  }
  return Buffer.concat(parts);
}

/** Turns a stream of bytes into replies. */
export class Parser {
  #bytes = Buffer.alloc(0);

  /** Adds bytes and returns the replies that are now complete. */
  push(chunk) {
    this.#bytes = this.#bytes.length ? Buffer.concat([this.#bytes, chunk]) : chunk;
    const replies = [];
    let at = 0;
    for (let read; (read = reply(this.#bytes, at)); at = read.end) replies.push(read.value);
    this.#bytes = this.#bytes.subarray(at);
    return replies;
  }
}

/** Returns the reply that starts at `at` and its end, or `undefined` if the reply is incomplete. */
function reply(bytes, at) {
  const eol = bytes.indexOf("\r\n", at);
  if (eol < 0) return undefined;
  const line = bytes.toString("utf8", at + 1, eol);
  const next = eol + 2;
  switch (String.fromCharCode(bytes[at])) {
    case "+":
      return { value: new Status(line), end: next };
    case "-":
      return { value: new ReplyError(line), end: next };
    case ":":
      return { value: BigInt(line), end: next };
    case "$": {
      if (line === "-1") return { value: null, end: next };
      const end = next + Number(line);
      return bytes.length < end + 2 ? undefined : { value: bytes.subarray(next, end), end: end + 2 };
    }
    case "*": {
      if (line === "-1") return { value: null, end: next };
      const value = [];
      let end = next;
      for (let left = Number(line); left > 0; left--) {
        const item = reply(bytes, end);
        if (!item) return undefined;
        value.push(item.value);
        end = item.end;
      }
      return { value, end };
    }
    default:
      throw new Error(`not RESP2: ${JSON.stringify(line.slice(0, 40))}`);
  }
}

/** One connection to Redis. */

import { once } from "node:events";
import { connect } from "node:net";
import { encode, Parser } from "./resp.mjs";

/** Redis cannot be reached, or went away before it answered: what was sent may or may not have run. */
export class RedisGone extends Error {}

/** Replies come back in the order of the commands, so that any number can be under way at once. */
export class Connection {
  #socket;
  #waiting = [];
  #onUnasked;

  /**
   * @param {{host: string, port: number}} redis
   * @param {(reply: unknown) => void} [onUnasked] gets the replies that answer no command (`MONITOR` sends those)
   * @returns {Promise<Connection>} rejects with `RedisGone`
   */
  static async open({ host, port }, onUnasked) {
    const socket = connect({ host, port, noDelay: true });
    try {
      await once(socket, "connect");
    } catch (error) {
      throw new RedisGone(error.message);
    }
    return new Connection(socket, onUnasked);
  }

  constructor(socket, onUnasked) {
    this.#socket = socket;
    this.#onUnasked = onUnasked;
    /** This end's address, which is how `MONITOR` names the connection. */
    this.address = `${socket.localAddress}:${socket.localPort}`;
    /** Resolves once the connection is no more. */
    this.closed = new Promise((resolve) => socket.on("close", () => resolve()));
    const parser = new Parser();
    socket.on("data", (chunk) => {
      for (const reply of parser.push(chunk)) {
        const waiting = this.#waiting.shift();
        if (waiting) waiting.resolve(reply);
        else this.#onUnasked?.(reply);
      }
    });
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => {
      for (const { reject } of this.#waiting.splice(0)) reject(new RedisGone("the connection to Redis was closed"));
    });
  }

  /** Whether commands can be sent. */
  get open() {
    return this.#socket.writable;
  }

  /** Sends commands in one piece, so that no other comes between them; resolves with their replies. */
  send(commands) {
    if (!this.open) return Promise.reject(new RedisGone("the connection to Redis was closed"));
    const replies = commands.map(() => new Promise((resolve, reject) => this.#waiting.push({ resolve, reject })));
    this.#socket.write(Buffer.concat(commands.map(encode)));
    return Promise.all(replies);
  }

  /** Closes at once. What waits for a reply rejects. */
  close() {
    this.#socket.destroy();
  }
}

/** One connection to Redis. */

import { once } from "node:events";
import { connect } from "node:net";
import { encode, Parser } from "./resp.mjs";

/** Redis could not be reached, or closed the connection before it answered. The commands may or may not have run. */
export class RedisGone extends Error {}

/** A connection on which any number of commands can be in flight, because replies come in the order of the commands. */
export class Connection {
  #socket;
  #waiting = [];
  #onPush;

  /**
   * @param {{host: string, port: number}} redis
   * @param {(reply: unknown) => void} [onPush] receives replies that answer no command, as `MONITOR` sends them
   * @returns {Promise<Connection>} rejects with `RedisGone`
   */
  static async open({ host, port }, onPush) {
    const socket = connect({ host, port, noDelay: true });
    try {
      await once(socket, "connect");
    } catch (error) {
      throw new RedisGone(error.message);
    }
    return new Connection(socket, onPush);
  }

  constructor(socket, onPush) {
    this.#socket = socket;
    this.#onPush = onPush;
    /** The local address, by which `MONITOR` names the connection. */
    this.address = `${socket.localAddress}:${socket.localPort}`;
    /** Resolves once the connection is closed. */
    this.closed = new Promise((resolve) => socket.on("close", () => resolve()));
    const parser = new Parser();
    socket.on("data", (chunk) => {
      for (const reply of parser.push(chunk)) {
        const waiting = this.#waiting.shift();
        if (waiting) waiting.resolve(reply);
        else this.#onPush?.(reply);
      }
    });
    socket.on("error", () => {}); // "close" follows
    socket.on("close", () => {
      for (const { reject } of this.#waiting.splice(0)) reject(new RedisGone("the connection to Redis was closed"));
    });
  }

  /** Whether the connection can send commands. */
  get open() {
    return this.#socket.writable;
  }

  /** Sends commands in one write, so that no other command comes between them. Resolves with their replies. */
  send(commands) {
    if (!this.open) return Promise.reject(new RedisGone("the connection to Redis was closed"));
    const replies = commands.map(() => new Promise((resolve, reject) => this.#waiting.push({ resolve, reject })));
    this.#socket.write(Buffer.concat(commands.map(encode)));
    return Promise.all(replies);
  }

  /** Closes the connection at once. Calls that wait for a reply reject. */
  close() {
    this.#socket.destroy();
  }
}

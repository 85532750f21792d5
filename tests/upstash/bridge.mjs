/**
 * Behaves as serverless-redis-http, a bridge to a self-hosted Redis: https://github.com/hiett/serverless-redis-http
 *
 * - Requests take turns on three connections. A transaction does not reserve its connection: a command that arrives between its `MULTI`
 *   and `EXEC` is answered `QUEUED`, and the command's reply becomes one more in the reply to `EXEC`.
 * - A transaction runs even if one of its replies is an error, and is then answered with an empty 500.
 * - The first request after the start is answered with an empty 500, because the connections do not exist yet.
 * - Scripts and all other commands are passed on unchanged.
 */

import { envelope } from "./answer.mjs";
import { Connection } from "./connection.mjs";
import { ReplyError } from "./resp.mjs";

const CONNECTIONS = 3;

const json = (status, body) => ({ status, body, contentType: "application/json" });
const BROKEN = { status: 500, body: "", contentType: "text/plain" };

export class Bridge {
  #redis;
  #connections;
  #turn = 0;

  /** @param {{host: string, port: number}} redis */
  constructor(redis) {
    this.#redis = redis;
  }

  /** Runs the commands and resolves with the answer. Rejects with `RedisGone`. */
  async run({ mode, commands }) {
    if (!this.#connections) {
      this.#connections = Promise.all(Array.from({ length: CONNECTIONS }, () => Connection.open(this.#redis)));
      return BROKEN;
    }
    if (mode === "single") {
      const reply = await this.#send(await this.#next(), commands[0]);
      return json(reply instanceof ReplyError ? 400 : 200, envelope(reply));
    }
    if (mode === "pipeline") {
      const replies = [];
      for (const args of commands) replies.push(envelope(await this.#send(await this.#next(), args)));
      return json(200, `[${replies.join(",")}]`);
    }
    const connection = await this.#next();
    const begun = await this.#send(connection, ["MULTI"]);
    if (begun instanceof ReplyError) return json(400, envelope(begun));
    for (const args of commands) await this.#send(connection, args);
    const replies = await this.#send(connection, ["EXEC"]);
    if (replies instanceof ReplyError) return json(400, envelope(replies));
    if (!Array.isArray(replies) || replies.some((reply) => reply instanceof ReplyError)) return BROKEN;
    return json(200, `[${replies.map((reply) => envelope(reply)).join(",")}]`);
  }

  async close() {
    for (const connection of (await this.#connections?.catch(() => [])) ?? []) connection.close();
  }

  async #next() {
    const connections = await this.#connections;
    this.#turn = (this.#turn + 1) % CONNECTIONS;
    return connections[this.#turn];
  }

  async #send(connection, args) {
    const [reply] = await connection.send([args]);
    return reply;
  }
}

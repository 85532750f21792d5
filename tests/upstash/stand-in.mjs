/**
 * A stand-in for Upstash's REST API over a real Redis: https://upstash.com/docs/redis/features/restapi
 *
 * It does not play Upstash's latency, regions, or limits of size and rate, or differences between Upstash's Lua and Redis's. Where
 * Upstash's documentation does not define the behaviour, a comment explains the choice.
 */

import { once, setMaxListeners } from "node:events";
import { createServer } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { envelope, errorBody } from "./answer.mjs";
import { Bridge } from "./bridge.mjs";
import { BadRequest, isRefused, parse } from "./commands.mjs";
import { RedisGone } from "./connection.mjs";
import { canned, Faults, UNAUTHORIZED } from "./faults.mjs";
import { startRedis } from "./redis-server.mjs";
import { ReplyError } from "./resp.mjs";
import { Scripts } from "./scripts.mjs";
import { Upstream } from "./upstream.mjs";

const METHODS = ["HEAD", "GET", "POST", "PUT"];

/** Upstash's limit on a request: 10 MB. */
const MAX_BODY = 10 * 1024 * 1024;

/** How many requests are kept for assertions. */
const MAX_REQUESTS_KEPT = 100;

const JSON_TYPE = "application/json";

/**
 * @param {object} [options]
 * @param {{host: string, port: number}} [options.redis] a Redis that the caller owns; default: a new one, which `stop()` ends
 * @param {{name: string, password: string}} [options.user] the Redis user that the token stands for; default: the default user
 * @param {{unchanged?: boolean, refusal?: string}} [options.scripts] how scripts are treated; default: as by Upstash. See `scripts.mjs`
 * @param {boolean} [options.bridge] whether to behave as serverless-redis-http; see `bridge.mjs`. Commands are not counted then
 * @param {string} [options.token]
 * @param {number} [options.port] default: a free one
 * @returns {Promise<StandIn>}
 */
export async function startStandIn({ redis, user, scripts, bridge, token = "stand-in-token", port = 0 } = {}) {
  const own = redis ? undefined : await startRedis();
  const standIn = new StandIn(own ?? redis, own, token, user, scripts, bridge);
  try {
    await standIn.listen(port);
  } catch (error) {
    await standIn.stop();
    throw error;
  }
  return standIn;
}

class StandIn {
  #own;
  #upstream;
  #scripts;
  #bridge;
  #server;
  #count = 0;
  #last = [];
  #delays = new AbortController();

  constructor(redis, own, token, user, scripts, bridge) {
    /** The Redis behind it. */
    this.redis = redis;
    this.token = token;
    /** Faults for the requests to come. */
    this.faults = new Faults();
    this.#own = own;
    this.#scripts = new Scripts(scripts);
    this.#bridge = bridge ? new Bridge(redis) : undefined;
    this.#upstream = new Upstream(redis, user);
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error) => {
        if (response.headersSent) response.destroy();
        else answer(response, { status: 500, body: errorBody(`ERR stand-in: ${error.stack}`), contentType: JSON_TYPE });
      });
    });
    // No idle limit, so that a caller's next request never meets a connection that is just being closed.
    this.#server.keepAliveTimeout = 0;
  }

  async listen(port) {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
    this.url = `http://127.0.0.1:${this.#server.address().port}`;
  }

  /** Returns how many commands Upstash would have billed since the start or the last `reset()`. See `upstream.mjs`. */
  billed() {
    return this.#upstream.billed();
  }

  /** Returns the names of the Redis commands that callers ran since the start or the last `reset()`, including those in scripts. */
  ran() {
    return this.#upstream.ran();
  }

  /**
   * Returns how many HTTP requests came since the start or the last `reset()`, and the last of them, oldest first. Refused requests and
   * those with a fault count, control requests do not. `status` is `null` if no answer was begun.
   *
   * @returns {{count: number, last: {method, url, headers, mode, commands, fault, status}[]}}
   */
  requests() {
    return { count: this.#count, last: [...this.#last] };
  }

  /** Restores the state after the start: no data, no scripts, no faults, counts at 0. Drops delayed requests. Redis has to be running. */
  async reset() {
    this.#delays.abort();
    this.#delays = new AbortController();
    this.faults.clear();
    await this.#upstream.flush();
    this.#count = 0;
    this.#last = [];
  }

  /** Ends the server, its connections and its own Redis. */
  async stop() {
    this.#delays.abort();
    this.#upstream.close();
    await this.#bridge?.close();
    if (this.#server.listening) {
      const closed = once(this.#server, "close");
      this.#server.close();
      this.#server.closeAllConnections();
      await closed;
    }
    await this.#own?.stop();
  }

  async #serve(request, response) {
    const body = await read(request);
    if (body === undefined) return; // the caller disconnected
    const authorized = request.headers.authorization === `Bearer ${this.token}`;
    const unauthorized = { status: 401, body: errorBody(UNAUTHORIZED), contentType: JSON_TYPE };
    if (request.url.startsWith("/__stand-in/")) {
      return answer(response, authorized ? await this.#control(request, body) : unauthorized);
    }

    const entry = this.#remember(request);
    const done = (result) => {
      entry.status = result.status;
      answer(response, result);
    };
    if (!METHODS.includes(request.method)) {
      return done({ status: 405, body: errorBody("ERR method not allowed"), contentType: JSON_TYPE, headers: { Allow: METHODS.join(", ") } });
    }
    if (!authorized) return done(unauthorized);
    let batch;
    try {
      if (body.length > MAX_BODY) throw new BadRequest(`ERR max request size exceeded. Limit: ${MAX_BODY} bytes, Actual: ${body.length} bytes`);
      batch = parse({ method: request.method, url: request.url, body });
    } catch (error) {
      if (!(error instanceof BadRequest)) throw error;
      return done({ status: 400, body: errorBody(error.message), contentType: JSON_TYPE });
    }
    entry.mode = batch.mode;
    entry.commands = batch.commands.map((args) => args.map(String));

    const fault = this.faults.take();
    entry.fault = fault?.kind ?? null;
    const base64 = request.headers["upstash-encoding"] === "base64";
    const run = () => this.#run(batch, { base64, noscript: fault?.kind === "noscript" });
    if (!fault || fault.kind === "noscript") return done(await run());
    return this.#fail(fault, run, response, entry, done);
  }

  async #fail(fault, run, response, entry, done) {
    const delays = this.#delays.signal;
    setMaxListeners(0, delays); // each delayed request adds a listener
    const result = fault.after ? await run() : undefined;
    switch (fault.kind) {
      case "delay":
        try {
          // The request still runs if its caller gives up, as a request does that is already on its way to Upstash.
          await delay(fault.ms, undefined, { signal: delays });
        } catch {
          return response.destroy();
        }
        return done(result ?? (await run()));
      case "hang":
        return undefined; // the connection stays open until the caller or `stop()` closes it
      case "reset":
        return response.socket?.resetAndDestroy();
      case "truncated": {
        const whole = Buffer.from((await run()).body);
        entry.status = 200;
        response.writeHead(200, { "Content-Type": JSON_TYPE, "Content-Length": whole.length });
        return response.write(half(whole), () => response.destroy());
      }
      case "cut": {
        const whole = await run();
        return done({ ...whole, body: half(Buffer.from(whole.body)) });
      }
      default:
        return done(canned(fault));
    }
  }

  /** Runs the commands and resolves with the answer. */
  async #run({ mode, commands }, { base64, noscript }) {
    const one = async (args) => {
      if (isRefused(args)) return unavailable(args);
      const { args: translated, restore } = this.#scripts.translate(args, { noscript });
      return restore(await this.#upstream.command(translated));
    };
    try {
      if (this.#bridge) return await this.#bridge.run({ mode, commands });
      if (mode === "single") {
        const reply = await one(commands[0]);
        return { status: reply instanceof ReplyError ? 400 : 200, body: envelope(reply, base64), contentType: JSON_TYPE };
      }
      if (mode === "pipeline") {
        // One after another, so that other requests come in between. A caller that relies on atomicity then fails.
        const replies = [];
        for (const args of commands) replies.push(await one(args));
        return list(replies, base64);
      }
      const reply = await this.#transaction(commands, noscript);
      // A transaction that is discarded has one error. A command that fails while it runs has an error in its place, and the others count.
      if (reply instanceof ReplyError) return { status: 400, body: envelope(reply, base64), contentType: JSON_TYPE };
      return list(reply, base64);
    } catch (error) {
      if (!(error instanceof RedisGone)) throw error;
      return { status: 500, body: errorBody(`ERR upstream: ${error.message}`), contentType: JSON_TYPE };
    }
  }

  async #transaction(commands, noscript) {
    const bad = commands.find(isRefused);
    if (bad) return unavailable(bad);
    const translated = commands.map((args) => this.#scripts.translate(args, { noscript }));
    const reply = await this.#upstream.transaction(translated.map(({ args }) => args));
    return Array.isArray(reply) ? reply.map((item, i) => translated[i].restore(item)) : reply;
  }

  /** Answers control requests of other processes: `POST faults` (an object or a list, `[]` clears), `GET stats`, `POST reset`. */
  async #control({ method, url }, body) {
    const ok = (content) => ({ status: 200, body: JSON.stringify(content), contentType: JSON_TYPE });
    const bad = (status, text) => ({ status, body: errorBody(text), contentType: JSON_TYPE });
    switch (`${method} ${url.slice("/__stand-in/".length)}`) {
      case "POST faults":
        try {
          this.faults.set(...[JSON.parse(body)].flat());
        } catch (error) {
          return bad(400, error.message);
        }
        return ok({ faults: this.faults.active() });
      case "GET stats": {
        const { count, last } = this.requests();
        return ok({ billed: await this.billed(), requests: count, last, faults: this.faults.active() });
      }
      case "POST reset":
        try {
          await this.reset();
        } catch (error) {
          if (error instanceof RedisGone) return bad(503, error.message);
          throw error;
        }
        return ok({});
    }
    return bad(404, "unknown control request: use POST faults, GET stats or POST reset");
  }

  #remember({ method, url, headers: { authorization: _, ...headers } }) {
    const entry = { method, url, headers, mode: null, commands: [], fault: null, status: null };
    this.#count += 1;
    this.#last.push(entry);
    if (this.#last.length > MAX_REQUESTS_KEPT) this.#last.shift();
    return entry;
  }
}

function list(replies, base64) {
  return { status: 200, body: `[${replies.map((reply) => envelope(reply, base64)).join(",")}]`, contentType: JSON_TYPE };
}

function unavailable([name]) {
  return new ReplyError(`ERR Command is not available: '${String(name).toUpperCase()}'`);
}

function half(bytes) {
  return bytes.subarray(0, Math.floor(bytes.length / 2));
}

/** Reads the whole body. Returns `undefined` if the caller disconnected before its end. */
async function read(request) {
  const chunks = [];
  try {
    for await (const chunk of request) chunks.push(chunk);
  } catch {
    return undefined;
  }
  return Buffer.concat(chunks);
}

function answer(response, { status, body, contentType, headers = {} }) {
  response.writeHead(status, { "Content-Type": contentType, "Content-Length": Buffer.byteLength(body), ...headers });
  response.end(body);
}

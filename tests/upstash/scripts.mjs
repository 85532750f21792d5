/**
 * Runs scripts with Upstash's flag `allow-key-locking` on a stock Redis.
 *
 * For a script whose first line is `#!lua flags=allow-key-locking`, Upstash locks only the script's keys, not the database. Stock Redis
 * refuses the flag. The stand-in therefore removes this flag from the text. That changes the text's SHA-1, so it maps the SHA that the
 * caller knows to the one that Redis knows.
 *
 * The rest of the line stays. Without a line `#!lua`, Redis runs scripts as before 7.0: with keys of several cluster slots and without a
 * check of memory before the start. A caller who wrote the line asked for the newer rules. Keeping it also keeps the line numbers in
 * error messages.
 *
 * A bridge to a self-hosted Redis does not know the flag. `unchanged` passes scripts on unchanged, and `refusal` is the error with which
 * another server answers a script with such a line.
 */

import { createHash } from "node:crypto";
import { ReplyError } from "./resp.mjs";

const FLAG = "allow-key-locking";

/** The SHA of no script, to which Redis itself answers `NOSCRIPT`. */
const NO_SCRIPT = "0".repeat(40);

export class Scripts {
  /** Maps the SHA of a text as sent to the SHA of the text that Redis got. If Redis has lost a script, Redis itself answers `NOSCRIPT`. */
  #shas = new Map();
  #unchanged;
  #refusal;

  /**
   * @param {object} [options]
   * @param {boolean} [options.unchanged] whether to pass scripts on unchanged, so that stock Redis refuses the flag
   * @param {string} [options.refusal] the error with which to answer a text that begins with `#!`
   */
  constructor({ unchanged = false, refusal } = {}) {
    this.#unchanged = unchanged;
    this.#refusal = refusal;
  }

  /**
   * Returns a command's arguments for Redis, and `restore`, which turns Redis's reply into Upstash's.
   *
   * @param {(string | Buffer)[]} args
   * @param {{noscript?: boolean}} [options] `noscript`: every `EVALSHA` fails
   */
  translate(args, { noscript = false } = {}) {
    const [name, second] = args.map((arg) => String(arg).toUpperCase());
    if (this.#refusal !== undefined && name === "EVAL" && String(args[1]).startsWith("#!")) {
      // Send Redis another command, so that this one is counted.
      return { args: ["ECHO", ""], restore: () => new ReplyError(this.#refusal) };
    }
    if (this.#unchanged) {
      const unknown = noscript && /^EVALSHA/.test(name);
      return { args: unknown ? [args[0], NO_SCRIPT, ...args.slice(2)] : args, restore: (reply) => reply };
    }
    if ((name === "EVAL" || name === "EVAL_RO") && args.length > 1) {
      const { text, sent, kept } = this.#text(args[1]);
      return { args: [args[0], text, ...args.slice(2)], restore: (reply) => replaceSha(reply, kept, sent) };
    }
    if ((name === "EVALSHA" || name === "EVALSHA_RO") && args.length > 1) {
      const sent = String(args[1]).toLowerCase();
      const kept = noscript ? NO_SCRIPT : (this.#shas.get(sent) ?? sent);
      return { args: [args[0], kept, ...args.slice(2)], restore: (reply) => replaceSha(reply, kept, sent) };
    }
    if (name === "SCRIPT" && second === "LOAD" && args.length === 3) {
      const { text, sent } = this.#text(args[2]);
      return { args: [...args.slice(0, 2), text], restore: (reply) => (Buffer.isBuffer(reply) ? Buffer.from(sent) : reply) };
    }
    if (name === "SCRIPT" && second === "EXISTS") {
      const shas = args.slice(2).map((sha) => this.#shas.get(String(sha).toLowerCase()) ?? sha);
      return { args: [...args.slice(0, 2), ...shas], restore: (reply) => reply };
    }
    return { args, restore: (reply) => reply };
  }

  #text(original) {
    const text = withoutFlag(String(original));
    const sent = sha1(original);
    const kept = sha1(text);
    if (sent === kept) return { text: original, sent, kept };
    this.#shas.set(sent, kept);
    return { text, sent, kept };
  }
}

/** Returns the script without Upstash's flag. A script without the flag stays unchanged. */
export function withoutFlag(text) {
  return text.replace(/^(#!lua[^\n]*?)[ \t]+flags=([^\s]*)/, (line, before, flags) => {
    const listed = flags.split(",");
    const left = listed.filter((flag) => flag !== FLAG);
    if (left.length === listed.length) return line;
    return left.length ? `${before} flags=${left.join(",")}` : before;
  });
}

/** Replaces the SHA in an error message of Redis by the SHA that the caller knows. */
function replaceSha(reply, kept, sent) {
  return reply instanceof ReplyError ? new ReplyError(reply.text.replaceAll(kept, sent)) : reply;
}

function sha1(text) {
  return createHash("sha1").update(text).digest("hex");
}

/**
 * Scripts with Upstash's flag `allow-key-locking`, on a stock Redis.
 *
 * Upstash takes a script whose first line is `#!lua flags=allow-key-locking` and locks the script's keys, not the
 * database. Stock Redis refuses the flag. So the flag, and only it, is removed from the text on its way, and because
 * that changes the text's SHA1, the SHA that the caller knows is mapped to the one that Redis knows.
 *
 * The rest of the line stays. `#!lua` alone is not the same as no line at all: without it Redis falls back to
 * how it ran scripts before 7.0 (keys of several cluster slots, no check of memory before the start). A caller who wrote the line
 * asked for the newer rules. Keeping it also keeps the line numbers in error messages.
 *
 * A bridge to a Redis of one's own knows nothing of that: `unchanged` hands scripts on as they are, and `refusal` answers
 * those with such a line as another server would.
 */

import { createHash } from "node:crypto";
import { ReplyError } from "./resp.mjs";

const FLAG = "allow-key-locking";

/** 40 digits that are no script's SHA: Redis itself then answers `NOSCRIPT`. */
const NO_SCRIPT = "0".repeat(40);

export class Scripts {
  /** SHA of the text as sent -> SHA of the text as Redis has it. Only what Redis was given is here; what it forgot, it says itself. */
  #shas = new Map();
  #unchanged;
  #refusal;

  /**
   * @param {object} [options]
   * @param {boolean} [options.unchanged] hand scripts on as they are: stock Redis refuses the flag
   * @param {string} [options.refusal] the error that answers a text that begins with `#!`
   */
  constructor({ unchanged = false, refusal } = {}) {
    this.#unchanged = unchanged;
    this.#refusal = refusal;
  }

  /**
   * A command as Redis is to get it, and how to turn Redis's reply into Upstash's.
   *
   * @param {(string | Buffer)[]} args
   * @param {{noscript?: boolean}} [options] `noscript`: let every `EVALSHA` fail
   */
  translate(args, { noscript = false } = {}) {
    const [name, second] = args.map((arg) => String(arg).toUpperCase());
    if (this.#refusal !== undefined && name === "EVAL" && String(args[1]).startsWith("#!")) {
      // Redis answers something all the same, so that the command is counted.
      return { args: ["ECHO", ""], restore: () => new ReplyError(this.#refusal) };
    }
    if (this.#unchanged) {
      const unknown = noscript && /^EVALSHA/.test(name);
      return { args: unknown ? [args[0], NO_SCRIPT, ...args.slice(2)] : args, restore: (reply) => reply };
    }
    if ((name === "EVAL" || name === "EVAL_RO") && args.length > 1) {
      const { text, sent, kept } = this.#text(args[1]);
      return { args: [args[0], text, ...args.slice(2)], restore: (reply) => rename(reply, kept, sent) };
    }
    if ((name === "EVALSHA" || name === "EVALSHA_RO") && args.length > 1) {
      const sent = String(args[1]).toLowerCase();
      const kept = noscript ? NO_SCRIPT : (this.#shas.get(sent) ?? sent);
      return { args: [args[0], kept, ...args.slice(2)], restore: (reply) => rename(reply, kept, sent) };
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

/** The script without Upstash's flag; the same text if it has none. */
export function withoutFlag(text) {
  return text.replace(/^(#!lua[^\n]*?)[ \t]+flags=([^\s]*)/, (line, before, flags) => {
    const listed = flags.split(",");
    const left = listed.filter((flag) => flag !== FLAG);
    if (left.length === listed.length) return line;
    return left.length ? `${before} flags=${left.join(",")}` : before;
  });
}

/** Redis names the script by its SHA in error messages; the caller knows it by another. */
function rename(reply, kept, sent) {
  return reply instanceof ReplyError ? new ReplyError(reply.text.replaceAll(kept, sent)) : reply;
}

function sha1(text) {
  return createHash("sha1").update(text).digest("hex");
}

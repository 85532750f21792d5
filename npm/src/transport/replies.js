/** What clients of Redis's own protocol answer, as Upstash's REST API would. */
import { FAILED, TIMED_OUT, WELL } from "../statuses.js";

const REFUSED = 400;

/**
 * A transport (rest.js) over a client.
 *
 * @param {(words: string[], signal: () => AbortSignal) => Promise<unknown>} run runs one command, unless the signal is aborted before it
 *   is sent; rejects with an error of Redis's own that `isRefusal` knows, or with another one where the command may not have arrived
 * @param {(timeout: number) => Promise<void>} ready resolves once the client is connected; a client that is not is sent nothing: it
 *   would keep the command, and run it after memory has decided
 * @returns {import("./rest.js").Transport}
 */
export function overClient(run, ready) {
  return {
    async call(body, timeout) {
      let timer;
      // It keeps a process alive while a call is under way, which the client's connections do not.
      const late = new Promise((resolve) => (timer = setTimeout(resolve, timeout, [TIMED_OUT, ""])));
      let isLate = false;
      let controller;
      const signal = () => (controller ??= new AbortController()).signal;
      late.then(() => {
        isLate = true;
        controller?.abort();
      });
      try {
        return await Promise.race([late, answer()]);
      } finally {
        clearTimeout(timer);
      }

      async function answer() {
        const words = JSON.parse(body);
        try {
          await ready(timeout);
          // Nothing may be sent of a call that has been given up.
          if (isLate) return [TIMED_OUT, ""];
          return [WELL, JSON.stringify({ result: plain(await run(words, signal), words) })];
        } catch (error) {
          return isRefusal(error) ? [REFUSED, JSON.stringify({ error: error.message })] : [FAILED, ""];
        }
      }
    },
  };
}

/** Whether Redis itself has answered an error: it begins with a word of capitals, as no error of a client's does. Their names are lost in bundles. */
export const isRefusal = (error) => /^-?[A-Z][A-Z]+(?: |$)/.test(error?.message ?? "");

/** A reply in the form that protocol version 2 has: maps as flat lists, and scores as texts. */
function plain(reply, words) {
  const [name] = words;
  // Scripts answer in the same form over each version.
  const isScored = name.startsWith("Z") && (words.includes("WITHSCORES") || name === "ZSCORE" || name === "ZINCRBY");
  const map = asEntries(reply);
  return flat(map ?? reply, isScored);
}

function asEntries(reply) {
  if (reply instanceof Map) return [...reply].flat();
  const isMap = reply !== null && typeof reply === "object" && !Array.isArray(reply) && !ArrayBuffer.isView(reply);
  return isMap ? Object.entries(reply).flat() : undefined;
}

function flat(reply, isScored) {
  if (Array.isArray(reply)) {
    const list = reply.map((entry) => flat(entry, isScored));
    return isScored && list.some(Array.isArray) ? list.flat() : list;
  }
  if (ArrayBuffer.isView(reply)) return Buffer.from(reply).toString("utf8");
  if (typeof reply === "bigint") return Number(reply);
  return isScored && typeof reply === "number" ? String(reply) : (reply ?? null);
}

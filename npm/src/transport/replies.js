/** Turns a client of Redis's own protocol into a transport, whose answers have the form of Upstash's REST API. */
import { FAILED, SUCCESS, TIMED_OUT } from "../statuses.js";

const REFUSED = 400;

/**
 * A transport (rest.js) over a client.
 *
 * @param {(words: string[], signal: () => AbortSignal) => Promise<unknown>} run runs one command, unless the signal is aborted before the
 *   command is sent. It rejects with Redis's own error, which `isRefusal` recognises, or with another error if the command may not have arrived.
 * @param {(timeout: number) => Promise<void>} ready resolves once the client is connected. Until then nothing is sent to the client: it
 *   would queue the command, and run it after memory has decided.
 * @returns {import("./rest.js").Transport}
 */
export function overClient(run, ready) {
  return {
    async call(body, timeout) {
      let timer;
      // This timer also keeps the process alive during a call. The client's connections do not.
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
          // A call that has timed out must send nothing any more.
          if (isLate) return [TIMED_OUT, ""];
          return [SUCCESS, JSON.stringify({ result: plain(await run(words, signal), words) })];
        } catch (error) {
          return isRefusal(error) ? [REFUSED, JSON.stringify({ error: error.message })] : [FAILED, ""];
        }
      }
    },
  };
}

/**
 * Whether an error is Redis's own. Its message begins with a word in capitals, as no message of a client's own errors does. The errors'
 * class names cannot be used, because bundlers change them.
 */
export const isRefusal = (error) => /^-?[A-Z][A-Z]+(?: |$)/.test(error?.message ?? "");

/** Converts a reply to the form of protocol version 2, in which maps are flat lists and scores are texts. */
function plain(reply, words) {
  const [name] = words;
  // Only these commands have scores. Scripts reply in the same form over both versions.
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

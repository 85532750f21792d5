/**
 * What the module asks for, by the kind of step (src/wire.rs): each takes the step's numbers and text, and returns a status
 * and a text for the task that asked.
 */

import { FAILED, NOT_TEXT, TIMED_OUT, TOO_LONG, WELL } from "./statuses.js";
import { fetchOptions } from "./fetch-options.js";

/** How long a key set may take, in ms, and the longest that is read, in bytes. */
const KEY_SET_TIMEOUT_MS = 2000;
const MAX_KEY_SET_BYTES = 64 * 1024;

/** Keys that are kept imported, those that were imported first going first. */
const MAX_IMPORTED_KEYS = 100;
const imported = new Map();

const ALGORITHMS = {
  HS256: { name: "HMAC", hash: "SHA-256" },
  RS256: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
  ES256: { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
};

/** `isApart`: where the runtime has processes, one that has nothing else to do does not wait for it. */
export async function sleep(ms, isApart) {
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    if (isApart) {
      timer.unref?.();
      globalThis.Deno?.unrefTimer?.(timer);
    }
  });
  return [WELL, ""];
}

/** Whether a signature is that of a key, a secret or a JWK, over what was signed. */
export async function verify(text) {
  const [algorithm, signature, signed] = text.split("\n", 3);
  const key = text.slice(algorithm.length + signature.length + signed.length + 3);
  const parameters = ALGORITHMS[algorithm];
  const encoder = new TextEncoder();
  try {
    const name = `${algorithm} ${key}`;
    let imports = imported.get(name);
    if (!imports) {
      const [format, material] = algorithm === "HS256" ? ["raw", encoder.encode(key)] : ["jwk", JSON.parse(key)];
      imports = await crypto.subtle.importKey(format, material, parameters, false, ["verify"]);
      if (imported.size >= MAX_IMPORTED_KEYS) imported.delete(imported.keys().next().value);
      imported.set(name, imports);
    }
    const bytes = Uint8Array.from(atob(signature), (character) => character.charCodeAt(0));
    const verified = await crypto.subtle.verify(parameters, imports, bytes, encoder.encode(signed));
    return [verified ? WELL : FAILED, ""];
  } catch {
    return [FAILED, ""];
  }
}

/** An identity provider's key set. */
export async function fetchKeySet(url) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), KEY_SET_TIMEOUT_MS);
  try {
    const headers = { Accept: "application/json, application/jwk-set+json" };
    const response = await fetch(url, { ...fetchOptions(), headers, redirect: "manual", signal: controller.signal });
    if (response.status === 200) {
      const [status, text] = await readText(response, MAX_KEY_SET_BYTES);
      return [status === FAILED && controller.signal.aborted ? TIMED_OUT : status, text];
    }
    await response.body?.cancel().catch(() => {});
    return [response.status, ""];
  } catch {
    return [controller.signal.aborted ? TIMED_OUT : FAILED, ""];
  } finally {
    clearTimeout(timer);
  }
}

/** A body as text, read no further than so many bytes. */
export async function readText(message, most) {
  if (!message.body) return [WELL, ""];
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let reader;
  try {
    reader = message.body.getReader();
    let [whole, size] = ["", 0];
    for (;;) {
      const { done, value } = await reader.read();
      size += value?.byteLength ?? 0;
      if (size > most) {
        await reader.cancel();
        return [TOO_LONG, ""];
      }
      try {
        whole += decoder.decode(value, { stream: !done });
      } catch {
        await reader.cancel().catch(() => {});
        return [NOT_TEXT, ""];
      }
      if (done) return [WELL, whole];
    }
  } catch {
    await reader?.cancel().catch(() => {});
    return [FAILED, ""];
  }
}

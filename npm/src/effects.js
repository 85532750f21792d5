/**
 * The effects that the module's tasks ask for, one for each kind of step (src/wire.rs). Each takes the step's numbers and text. It returns a
 * status and a text, with which the task resumes.
 */

import { FAILED, NOT_TEXT, SUCCESS, TIMED_OUT, TOO_LONG } from "./statuses.js";
import { fetchOptions } from "./fetch-options.js";

/** A key set that takes longer or is larger is refused. */
const KEY_SET_TIMEOUT_MS = 2000;
const MAX_KEY_SET_BYTES = 64 * 1024;

/** Imported keys by algorithm and key, because an import is slow. When the map is full, the key imported first is dropped. */
const MAX_IMPORTED_KEYS = 100;
const importedKeys = new Map();

const ALGORITHMS = {
  HS256: { name: "HMAC", hash: "SHA-256" },
  RS256: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
  ES256: { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
};

/** Waits. If `isBackground`, a process of Node, Deno or Bun that has nothing else to do may end meanwhile. */
export async function sleep(ms, isBackground) {
  await new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    if (isBackground) {
      timer.unref?.();
      globalThis.Deno?.unrefTimer?.(timer);
    }
  });
  return [SUCCESS, ""];
}

/** Verifies a signature. The text has four parts, separated by line feeds: algorithm, signature in base64, signed text, and the secret or JWK. */
export async function verify(text) {
  const [algorithm, signature, signed] = text.split("\n", 3);
  const key = text.slice(algorithm.length + signature.length + signed.length + 3);
  const parameters = ALGORITHMS[algorithm];
  const encoder = new TextEncoder();
  try {
    const name = `${algorithm} ${key}`;
    let imported = importedKeys.get(name);
    if (!imported) {
      const [format, material] = algorithm === "HS256" ? ["raw", encoder.encode(key)] : ["jwk", JSON.parse(key)];
      imported = await crypto.subtle.importKey(format, material, parameters, false, ["verify"]);
      if (importedKeys.size >= MAX_IMPORTED_KEYS) importedKeys.delete(importedKeys.keys().next().value);
      importedKeys.set(name, imported);
    }
    const bytes = Uint8Array.from(atob(signature), (character) => character.charCodeAt(0));
    const verified = await crypto.subtle.verify(parameters, imported, bytes, encoder.encode(signed));
    return [verified ? SUCCESS : FAILED, ""];
  } catch {
    return [FAILED, ""];
  }
}

/** Fetches an identity provider's key set. */
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

/** Reads the body of a request or response as UTF-8. Stops with `TOO_LONG` after `maxBytes`. */
export async function readText(message, maxBytes) {
  if (!message.body) return [SUCCESS, ""];
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let reader;
  try {
    reader = message.body.getReader();
    let [text, size] = ["", 0];
    for (;;) {
      const { done, value } = await reader.read();
      size += value?.byteLength ?? 0;
      if (size > maxBytes) {
        await reader.cancel();
        return [TOO_LONG, ""];
      }
      try {
        text += decoder.decode(value, { stream: !done });
      } catch {
        await reader.cancel().catch(() => {});
        return [NOT_TEXT, ""];
      }
      if (done) return [SUCCESS, text];
    }
  } catch {
    await reader?.cancel().catch(() => {});
    return [FAILED, ""];
  }
}

import { text } from "./body.js";

const ALGORITHMS = {
  HS256: { name: "HMAC", hash: "SHA-256" },
  RS256: { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
  ES256: { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
};

/** Keys that are kept imported, those that were imported first going first. */
const MOST_KEYS = 100;
const imported = new Map();

/** Whether `signature` is that of `key`, a secret or a JWK, over `signed`. */
export async function verify(algorithm, key, signed, signature) {
  // A view of WebAssembly's memory, which may be another by the time that the key is there.
  const own = signature.slice();
  const parameters = ALGORITHMS[algorithm];
  const encoder = new TextEncoder();
  const name = `${algorithm} ${key}`;
  let imports = imported.get(name);
  if (!imports) {
    const [format, material] = algorithm === "HS256" ? ["raw", encoder.encode(key)] : ["jwk", JSON.parse(key)];
    imports = await crypto.subtle.importKey(format, material, parameters, false, ["verify"]);
    if (imported.size >= MOST_KEYS) imported.delete(imported.keys().next().value);
    imported.set(name, imports);
  }
  return crypto.subtle.verify(parameters, imports, own, encoder.encode(signed));
}

/** The text at `url`, if it is there within `timeout` ms and no longer than `most` bytes. */
export async function document(url, timeout, most) {
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), timeout);
  try {
    const response = await fetch(url, { headers: { Accept: "application/json" }, redirect: "manual", signal: controller.signal });
    if (response.status === 200) return await text(response, most);
    await response.body?.cancel();
    return undefined;
  } finally {
    clearTimeout(timer);
  }
}

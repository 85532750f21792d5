/** Calls the stand-in over plain HTTP, for tests of the wire format. */

/**
 * @param {{url: string, token: string}} standIn
 * @param {unknown} [body] sent as JSON; a string or Buffer is sent unchanged
 * @returns {Promise<{status: number, text: string, json: unknown, headers: Headers}>}
 */
export async function call({ url, token }, path, body, { method = "POST", headers = {}, signal } = {}) {
  const raw = body === undefined || typeof body === "string" || Buffer.isBuffer(body);
  const response = await fetch(url + path, {
    method,
    headers: { Authorization: `Bearer ${token}`, ...headers },
    body: raw ? body : JSON.stringify(body),
    signal,
  });
  const text = await response.text();
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  return { status: response.status, text, json, headers: response.headers };
}

/** Runs one command. Returns `result`, or throws the answer's `error`. */
export async function run(standIn, ...command) {
  const { json, text } = await call(standIn, "/", command);
  if (json?.error !== undefined || json === undefined) throw new Error(json?.error ?? text);
  return json.result;
}

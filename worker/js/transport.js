/**
 * The store's call, in one crossing from Rust: a status and a text, `undefined` for what took longer than `timeout` ms, an
 * exception for a connection that failed. The timer ends with the call: one that is still to come would keep a request alive
 * that has trapped meanwhile.
 */
export async function post(url, headers, body, timeout) {
  const controller = new AbortController();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    controller.abort();
  }, timeout);
  try {
    const response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal: controller.signal });
    // What ends the call ends the reading of its body as well.
    return [response.status, await response.text()];
  } catch (error) {
    if (late) return undefined;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

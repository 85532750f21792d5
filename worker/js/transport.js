/**
 * The store's call in one crossing from Rust. What comes of it is a status and a text; what goes wrong is `undefined` for a
 * call that took too long, and an exception for one that failed.
 */
export async function post(url, headers, body, timeout) {
  const controller = new AbortController();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    controller.abort();
  }, timeout);
  try {
    // A redirect would carry a decision, and so callers' addresses, to wherever it points.
    const response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal: controller.signal });
    return [response.status, await response.text()];
  } catch (error) {
    if (late) return undefined;
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

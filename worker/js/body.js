/**
 * A request's body as text, read no further than it may be long: `undefined` for a longer one, `null` for one that is not
 * UTF-8.
 */
export async function text(request, most) {
  if (!request.body) return "";
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const reader = request.body.getReader();
  let [whole, size] = ["", 0];
  for (;;) {
    const { done, value } = await reader.read();
    size += value?.byteLength ?? 0;
    if (size > most) {
      await reader.cancel();
      return undefined;
    }
    try {
      whole += decoder.decode(value, { stream: !done });
    } catch {
      await reader.cancel();
      return null;
    }
    if (done) return whole;
  }
}

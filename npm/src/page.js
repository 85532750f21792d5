/** The files of the page for operators. They are a module of their own, which is loaded when one is first asked for. */

const NOT_MODIFIED = 304;

/** The status, headers and body of an answer whose body is one of the files (src/admin/page.rs). */
export async function fileAnswer(name, status, headers, request) {
  const { files } = await import("./page_files.js");
  const { text, etag } = files[name];
  const all = { ...headers, ETag: `W/${etag}` };
  // Of several, or of a strong one, it is the quoted part that counts.
  const known = request.headers.get("if-none-match")?.includes(etag);
  return known ? { status: NOT_MODIFIED, headers: all, body: null } : { status, headers: all, body: text };
}

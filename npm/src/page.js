/** The files of the page for operators. They are in a separate module, which is loaded when a file is first requested. */

const NOT_MODIFIED = 304;

/** The status, headers and body of an answer whose body is the file `name` (src/admin/page.rs). */
export async function fileAnswer(name, status, headers, request) {
  const { files } = await import("./page_files.js");
  const { text, etag } = files[name];
  const all = { ...headers, ETag: `W/${etag}` };
  // The header may list several tags, weak or strong. The quoted part is the same in each form.
  const isCached = request.headers.get("if-none-match")?.includes(etag);
  return isCached ? { status: NOT_MODIFIED, headers: all, body: null } : { status, headers: all, body: text };
}

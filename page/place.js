/**
 * The place in the page, which is in the URL's hash: the view, its subject and its parameters. Anybody can make a link with any hash, so a
 * place only shows something and never does anything.
 */

/**
 * Reads the place from a hash such as `#/callers/192.0.2.1?x=y`.
 *
 * @returns {{view: string, about: string, parameters: [string, string][]}}
 */
export function here(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [view, ...about] = path.split("/");
  return { view, about: decoded(about.join("/")), parameters: [...new URLSearchParams(query)] };
}

export function link(view, about = "", parameters = []) {
  const query = new URLSearchParams(parameters).toString();
  return `#/${view}${about === "" ? "" : `/${encodeURIComponent(about)}`}${query === "" ? "" : `?${query}`}`;
}

export function go(...to) {
  location.hash = link(...to);
}

/** Goes to a place without adding a step to the browser's history. */
export function replace(...to) {
  history.replaceState(null, "", link(...to));
  dispatchEvent(new HashChangeEvent("hashchange"));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

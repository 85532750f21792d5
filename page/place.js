/** Where the page is: the view, what it is about, and its parameters, in the URL's hash. Anybody can make such a URL: it only shows. */

/**
 * @returns {{view: string, about: string, parameters: [string, string][]}} of `#/callers/192.0.2.1?x=y`
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

/** Changes the parameters without a step in the browser's history. */
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

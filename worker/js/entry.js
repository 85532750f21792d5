/** What Cloudflare calls. */
import { FORWARD, begin, current, drive, forwarded, ownAnswer, prepare, runDuties, step, take, unreachable, waits } from "./engine.js";

/** How a request is forwarded to the binding `ORIGIN`; otherwise to a URL. */
const TO_BINDING = 1;

const EXPOSED = "access-control-expose-headers";

export default {
  async fetch(request, env, context) {
    prepare(env);
    const finish = (kind) => (kind === FORWARD ? forward(request, env) : { response: ownAnswer(), sample: 0 });
    const kind = begin(request);
    const waitUntil = (promise) => context.waitUntil(promise);
    // The origin is not waited for before the duties are begun.
    const { done } = waits(kind) ? await drive(kind, request, finish, waitUntil) : { done: finish(kind) };
    const born = current();
    runDuties(waitUntil);
    const { response, sample } = await done;
    if (sample !== 0 && born === current()) {
      forwarded(sample, response.status);
      runDuties(waitUntil);
    }
    return response;
  },
};

/** Sends a request on as the last step says; what comes back, with the limiter's headers. */
async function forward(request, env) {
  const [, how, sample] = step();
  const parts = take().split("\n");
  // Without a URL it keeps its own.
  const [url, exposed] = parts;
  const outgoing = url === "" ? new Request(request) : new Request(url, request);
  const afterRequest = edit(outgoing.headers, parts, 2);
  const has = parts[afterRequest] !== "";
  let response;
  try {
    const fetcher = how === TO_BINDING ? env.ORIGIN : globalThis;
    // Redirects are the client's to follow.
    response = await fetcher.fetch(outgoing, { redirect: "manual" });
  } catch {
    response = unreachable(request, env);
    edit(response.headers, parts, afterRequest);
    return { response, sample };
  }
  const isForPages = response.headers.has("access-control-allow-origin");
  // No response can be made with a status outside these (101 would need its socket as well): such a one goes on unchanged.
  if ((has || isForPages) && response.status >= 200 && response.status < 600) {
    // A fetched response's headers cannot be changed, a copy's can.
    response = new Response(response.body, response);
    edit(response.headers, parts, afterRequest);
    if (isForPages) expose(response.headers, exposed);
  }
  return { response, sample };
}

/** Adds names to those of the headers that a page may read. */
function expose(headers, names) {
  const own = headers.get(EXPOSED);
  headers.set(EXPOSED, own ? `${own}, ${names}` : names);
}

/** Sets and removes headers as two lists say, each ended by an empty part; where the next list begins. */
function edit(headers, parts, at) {
  for (; parts[at] !== ""; at += 2) headers.set(parts[at], parts[at + 1]);
  for (at += 1; parts[at] !== ""; at += 1) headers.delete(parts[at]);
  return at + 1;
}

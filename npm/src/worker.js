/** What Cloudflare calls. */
import {
  FORWARD, badGateway, begin, current, drive, forwarded, ownAnswer, prepare, redirected, removeOwn, runDuties, step, take, tend, waits,
} from "./engine.js";
import { incomingOf } from "./current.js";
import { expose, isForPages, isRefusal } from "./responses.js";

// Both are in an error's stack: the Wasm functions' and the ones that called them.
Error.stackTraceLimit = 100;

/** How a request is forwarded to the binding `ORIGIN`; otherwise to a URL. */
const TO_BINDING = 1;

/** Redirects are the client's to follow. */
const MANUAL = { redirect: "manual" };

const SWITCHING_PROTOCOLS = 101;
const CREATED = 201;

export default {
  async fetch(request, env, context) {
    const incoming = incomingOf(request, prepare(env));
    const finish = (kind) => (kind === FORWARD ? forward(incoming, env) : { response: ownAnswer(request), sample: 0 });
    const kind = begin(incoming);
    const waitUntil = (promise) => context.waitUntil(promise);
    // The origin is not waited for before the duties are begun.
    const { done } = waits(kind) ? await drive(kind, incoming, finish, waitUntil) : { done: finish(kind) };
    const born = current();
    runDuties(waitUntil);
    const { response, sample } = await done;
    if (sample !== 0 && born === current()) {
      forwarded(sample, response.status);
      runDuties(waitUntil);
    }
    return response;
  },

  scheduled(_event, env, context) {
    prepare(env);
    tend((promise) => context.waitUntil(promise));
  },
};

/** Sends a request on as the last step says; what comes back, with the limiter's headers. */
async function forward(incoming, env) {
  const { request } = incoming;
  const [, how, sample] = step();
  const parts = take().split("\n");
  const [origin, rest, exposed] = parts;
  const url = origin + rest;
  // Without a URL it keeps its own.
  const outgoing = url === "" ? new Request(request) : new Request(url, request);
  const { headers } = outgoing;
  removeOwn(headers, incoming);
  const afterRequest = edit(headers, parts, 3);
  let response;
  try {
    const fetcher = how === TO_BINDING ? env.ORIGIN : globalThis;
    // As the platform hands requests over, they say so already; said once more, it costs another copy.
    response = await (outgoing.redirect === "manual" ? fetcher.fetch(outgoing) : fetcher.fetch(outgoing, MANUAL));
  } catch {
    return { response: editedBadGateway(), sample };
  }
  const { status } = response;
  if (status < 200 && status !== SWITCHING_PROTOCOLS) {
    response.body?.cancel().catch(() => {});
    return { response: editedBadGateway(status), sample };
  }
  const exposes = isForPages(response.headers);
  // No response can be made with a status outside these (101 would need its socket as well): such a one goes on unchanged.
  if (status >= 200 && status < 600) {
    const moved = origin === "" ? [] : redirects(response, origin, request.url);
    // The origin's own refusals keep its numbers.
    const has = parts[afterRequest] !== "" || parts[afterRequest + 1] !== "";
    const decorated = has && !isRefusal(status);
    if (decorated || exposes || moved.length > 0) {
      // A fetched response's headers cannot be changed, a copy's can.
      response = new Response(response.body, response);
      if (decorated) edit(response.headers, parts, afterRequest);
      if (exposes) expose(response.headers, exposed);
      for (const [name, value] of moved) response.headers.set(name, value);
    }
  }
  return { response, sample };

  function editedBadGateway(interim) {
    const answer = badGateway(incoming, env, interim);
    edit(answer.headers, parts, afterRequest);
    return answer;
  }
}

/** The headers of an answer that lead around the limiter to `origin`, as they are to be instead. */
function redirects(response, origin, url) {
  const { status, headers } = response;
  const moved = [];
  const look = (name) => {
    const value = headers.get(name);
    const changed = value === null ? undefined : redirected(name, origin, url, value);
    if (changed !== undefined) moved.push([name, changed]);
  };
  if (status === CREATED || (status >= 300 && status < 400)) look("location");
  look("refresh");
  return moved;
}

/** Sets and removes headers as two lists say, each ended by an empty part; where the next list begins. */
function edit(headers, parts, at) {
  for (; parts[at] !== ""; at += 2) headers.set(parts[at], parts[at + 1]);
  for (at += 1; parts[at] !== ""; at += 1) headers.delete(parts[at]);
  return at + 1;
}

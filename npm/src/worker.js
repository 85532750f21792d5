/** The Worker: the handlers that Cloudflare calls. */
import {
  FORWARD, badGateway, begin, currentInstance, drive, forwarded, ownAnswer, prepare, redirected, removeNotForwarded, runDuties, stepNumbers, stepText, tend,
  waits,
} from "./engine.js";
import { incomingOf } from "./current.js";
import { expose, isForPages, isRefusal } from "./responses.js";

// A stack after a panic has the frames of the module and those of the JavaScript that called it. The default of 10 would cut it.
Error.stackTraceLimit = 100;

/** The step's number for a forward to the binding `ORIGIN`. Other forwards go to a URL. */
const TO_BINDING = 1;

/** The limiter passes redirects to the client and does not follow them. */
const MANUAL = { redirect: "manual" };

const SWITCHING_PROTOCOLS = 101;
const CREATED = 201;

export default {
  async fetch(request, env, context) {
    const incoming = incomingOf(request, prepare(env));
    const finish = (kind) => (kind === FORWARD ? forward(incoming, env) : { response: ownAnswer(request), sample: 0 });
    const kind = begin(incoming);
    const waitUntil = (promise) => context.waitUntil(promise);
    const { done } = waits(kind) ? await drive(kind, incoming, finish, waitUntil) : { done: finish(kind) };
    const decidedBy = currentInstance();
    // Duties begin before the origin has answered.
    runDuties(waitUntil);
    const { response, sample } = await done;
    if (sample !== 0 && decidedBy === currentInstance()) {
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

/** Forwards a request as the last step says. Returns the origin's response with the limiter's headers, and the number of the sample or 0. */
async function forward(incoming, env) {
  const { request } = incoming;
  const [, target, sample] = stepNumbers();
  const parts = stepText().split("\n");
  const [origin, rest, exposed] = parts;
  const url = origin + rest;
  // Without a URL the request keeps its own.
  const outgoing = url === "" ? new Request(request) : new Request(url, request);
  const { headers } = outgoing;
  removeNotForwarded(headers, incoming);
  const afterRequest = edit(headers, parts, 3);
  let response;
  try {
    const fetcher = target === TO_BINDING ? env.ORIGIN : globalThis;
    // Requests from the platform have `redirect: "manual"` already. Passing the option again would cost another copy.
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
  // A `Response` can only be constructed with a status in this range (101 would also need its socket). Any other is passed on unchanged.
  if (status >= 200 && status < 600) {
    const moved = origin === "" ? [] : redirects(response, origin, request.url);
    const hasEdits = parts[afterRequest] !== "" || parts[afterRequest + 1] !== "";
    const decorated = hasEdits && !isRefusal(status);
    if (decorated || exposes || moved.length > 0) {
      // A fetched response's headers are immutable, a copy's are not.
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

/** New values for the response's redirecting headers that lead to `origin`, around the limiter. */
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

/** Sets, then removes headers by two lists, each ended by an empty part. Returns the place at which the next list begins. */
function edit(headers, parts, at) {
  for (; parts[at] !== ""; at += 2) headers.set(parts[at], parts[at + 1]);
  for (at += 1; parts[at] !== ""; at += 1) headers.delete(parts[at]);
  return at + 1;
}

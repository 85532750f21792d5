/** The answers of the contestants in JavaScript: the origin's if `ORIGIN_URL` is set, otherwise their own. */

const MESSAGE = "Admitted. This is a contestant of a benchmark, without an origin.";

/** A body as long as edge-limiter's own, so that no contestant gains by a shorter answer. */
export function body(caller, admitted) {
  return { admitted, message: MESSAGE, caller, policies: ["general"] };
}

/** The answer to a request after the decision, with the limit's headers. `reset` is in seconds since the epoch. */
export function answer(request, env, { caller, admitted, limit, remaining, reset }) {
  const headers = {
    "X-RateLimit-Limit": String(limit),
    "X-RateLimit-Remaining": String(remaining),
    "X-RateLimit-Reset": String(reset),
  };
  if (admitted && env.ORIGIN_URL) return forwarded(request, env, headers);
  return new Response(JSON.stringify(body(caller, admitted)), {
    status: admitted ? 200 : 429,
    headers: { "Content-Type": "application/json", "Cache-Control": "no-store", ...headers },
  });
}

async function forwarded(request, env, headers) {
  const fetched = await forward(request, env);
  // A fetched response's headers are immutable, a copy's are not.
  const response = new Response(fetched.body, fetched);
  for (const name in headers) response.headers.set(name, headers[name]);
  return response;
}

/** Sends the request to the origin, with its path and query. Redirects are passed to the client. */
export function forward(request, env) {
  const { pathname, search } = new URL(request.url);
  return fetch(new Request(env.ORIGIN_URL + pathname + search, request), { redirect: "manual" });
}

export const callerOf = (request) => request.headers.get("CF-Connecting-IP") ?? "unknown";

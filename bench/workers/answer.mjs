/** The answer of the contestants that limit: as long as edge-limiter's own, so that none gains by saying less. */

const MESSAGE = "Admitted. This is a contestant of a benchmark, without an origin.";

export function body(caller, admitted) {
  return { admitted, message: MESSAGE, caller, policies: ["general"] };
}

/** With the limit's headers; `reset` in seconds since the epoch. */
export function answer(caller, { admitted, limit, remaining, reset }) {
  return new Response(JSON.stringify(body(caller, admitted)), {
    status: admitted ? 200 : 429,
    headers: {
      "Content-Type": "application/json",
      "Cache-Control": "no-store",
      "X-RateLimit-Limit": String(limit),
      "X-RateLimit-Remaining": String(remaining),
      "X-RateLimit-Reset": String(reset),
    },
  });
}

export const callerOf = (request) => request.headers.get("CF-Connecting-IP") ?? "unknown";

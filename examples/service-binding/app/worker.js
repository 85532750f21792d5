/** Asks the limiter whether a user may try another payment. */
async function check(env, identifier) {
  const response = await env.LIMITER.fetch("https://limiter/_limiter/check", {
    method: "POST",
    headers: { Authorization: `Bearer ${env.CHECK_TOKEN}` },
    body: JSON.stringify({ policy: "payment", identifier }),
  });
  if (!response.ok) throw new Error(`The limiter answered ${response.status}: ${await response.text()}`);
  return response.json();
}

export default {
  async fetch(request, env) {
    const { searchParams } = new URL(request.url);
    const { allowed, remaining, retry_after } = await check(env, `user:${searchParams.get("user")}`);
    if (allowed) return Response.json({ paid: true, remaining });
    const headers = retry_after === null ? {} : { "Retry-After": String(retry_after) };
    return Response.json({ paid: false }, { status: 429, headers });
  },
};

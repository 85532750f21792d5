/** On Vercel, this file runs before every route. A request without the secret did not pass the limiter, so it is refused. */
import { timingSafeEqual } from "node:crypto";

export const config = { runtime: "nodejs" };

export default function middleware(request) {
  const given = Buffer.from(request.headers.get("x-edge-limiter-secret") ?? "");
  const secret = Buffer.from(process.env.ORIGIN_SECRET ?? "");
  const isKnown = secret.length > 0 && given.length === secret.length && timingSafeEqual(given, secret);
  if (!isKnown) return new Response("Forbidden", { status: 403 });
}

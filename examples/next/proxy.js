import { rateLimit } from "edge-limiter/next";

export const proxy = rateLimit({
  // Vercel sets the caller's address itself. Elsewhere, one proxy in front of `next start` adds it to X-Forwarded-For.
  trustProxy: process.env.VERCEL ? 0 : 1,
  env: {
    ...process.env,
    RATE_LIMIT_GENERAL: "60,60",
    RATE_LIMIT_LOGIN: "5,60,600",
    RATE_LIMIT_ROUTES: [{ path: "/api/login", policies: ["general", "login"] }],
  },
});

/** Static files are not limited. */
export const config = { matcher: ["/((?!_next/static|_next/image|favicon.ico).*)"] };

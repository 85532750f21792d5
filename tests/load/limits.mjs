/**
 * The limits that the scenarios expect: the limiter's defaults, on routes like those of wrangler.toml. A scenario fails if a variable
 * sets another limit (`--var RATE_LIMIT_AUTH=40,60,600`).
 */

import { ADMIN_TOKEN, CHECK_TOKEN } from "../harness/control.mjs";

export const AUTH = { limit: 30, seconds: 60, block: 600 };
export const FINANCIAL = { limit: 20, seconds: 60, block: 900 };
export const GENERAL = { limit: 120, seconds: 60 };
export const SENSITIVE = { limit: 10, seconds: 60, block: 900 };

/** No request leaves a window in a shorter run, so the number of admissions is known exactly. */
export const SHORTEST_WINDOW_S = 60;

/** The address that calls the control plane. No caller of a scenario has it. */
export const OPERATOR = "192.0.2.251";

export const VARS = {
  ADMIN_TOKEN,
  CHECK_TOKEN,
  RATE_LIMIT_ROUTES: [
    { path: "/api/auth/*password*/**", policies: ["auth", "sensitive"] },
    { path: "/api/auth/**", policies: ["auth"] },
    { path: "/api/admin/**", policies: ["admin"] },
    { path: "/api/payments/**", policies: ["financial"] },
    { path: "/api/checkout/**", policies: ["financial"] },
    { path: "/api/user/**", methods: ["POST", "PUT", "PATCH", "DELETE"], policies: ["sensitive"] },
    { path: "/api/profile/**", methods: ["POST", "PUT", "PATCH", "DELETE"], policies: ["sensitive"] },
  ],
};

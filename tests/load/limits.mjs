/**
 * The limits that the scenarios count on: those that the limiter has where no variable says otherwise, on routes like
 * wrangler.toml's. A scenario fails if a variable gives the limiter others (`--var RATE_LIMIT_AUTH=40,60,600`).
 */

import { ADMIN_TOKEN, CHECK_TOKEN } from "../harness/control.mjs";

export const AUTH = { limit: 30, seconds: 60, block: 600 };
export const FINANCIAL = { limit: 20, seconds: 60, block: 900 };
export const GENERAL = { limit: 120, seconds: 60 };
export const SENSITIVE = { limit: 10, seconds: 60, block: 900 };

/** Within a run as long as this, nothing leaves a window: what is admitted is known to the unit. */
export const SHORTEST_WINDOW_S = 60;

/** Where the control plane is called from: nobody's address of a scenario. */
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

import { ADMIN_TOKEN, CHECK_TOKEN } from "../../harness/control.mjs";
import { OPERATOR } from "../limits.mjs";

/** Wrong tokens of an address that are answered 401. Further ones are answered 429. */
const ANSWERED_401 = 10;

/** Wrong tokens that each of many addresses tries in token-guessing.yml. */
const TRIED = 15;

export const proves = "exactly 10 wrong tokens of an address or /64 are answered 401, for both tokens together, and they open nothing, while the right tokens always work";

export const vars = { RATE_LIMIT_ADMIN: `${ANSWERED_401},60,300` };

export const variables = () => ({ adminToken: ADMIN_TOKEN, checkToken: CHECK_TOKEN });

/** The event log counts every wrong token, including those that were answered 429. */
export const recorded = (run) => run.all("refused") + run.all("denied");

export async function judge({ run, criteria, redis, ask }) {
  for (const name of ["guesser", "network"]) {
    criteria.atLeast(`${name}: wrong tokens (expected: more than its limit)`, run.sent(name), ANSWERED_401 + 1);
    criteria.equal(`${name}: answered 401 (expected: its limit)`, run.of(name, "refused"), ANSWERED_401);
    criteria.equal(`${name}: answered 429 (expected: all others)`, run.of(name, "denied"), run.sent(name) - ANSWERED_401);
  }
  for (const name of ["admin-guessers", "check-guessers"]) {
    const addresses = run.sent(name) / TRIED;
    criteria.atLeast(`${name}: addresses`, addresses, 1);
    criteria.equal(`${name}: answered 401 (expected: the limit of each)`, run.of(name, "refused"), ANSWERED_401 * addresses);
    criteria.equal(`${name}: answered 429 (expected: all others)`, run.of(name, "denied"), (TRIED - ANSWERED_401) * addresses);
  }
  criteria.equal("answers that need a token but were given without the right one", run.all("opened") - run.of("operator", "opened") - run.of("server", "opened"), 0);
  criteria.equal("blocks that wrong tokens have set", (await ask(OPERATOR, "/_limiter/blocked", { Authorization: `Bearer ${ADMIN_TOKEN}` })).json().blocked, []);
  for (const name of ["operator", "server"]) {
    criteria.allServed(name);
    criteria.equal(`${name}: answers that need the token (expected: all)`, run.of(name, "opened"), run.sent(name));
  }
  criteria.allServed("public");
  criteria.equal("units that Redis counts (expected: the server's checks)", await redis.total("general"), run.of("server", "admitted"));

  const right = { Authorization: `Bearer ${ADMIN_TOKEN}` };
  const statuses = async (caller) => [(await ask(caller, "/_limiter/blocked", right)).status, (await ask(caller, "/_limiter/health")).status, (await ask(caller, "/api/products")).status];
  criteria.equal("guesser: statuses with the right token, of health and of traffic", await statuses("198.51.100.90"), [200, 200, 200]);
  criteria.equal("network: the same statuses, from an address that it has not used", await statuses("2001:db8:bad:1::1"), [200, 200, 200]);
  criteria.equal("addresses next to both: the same statuses", await statuses("198.51.100.89").then(async (one) => [one, await statuses("2001:db8:bad:2::1")]), [[200, 200, 200], [200, 200, 200]]);
}

import { ADMIN_TOKEN, CHECK_TOKEN } from "../../harness/control.mjs";
import { OPERATOR } from "../limits.mjs";

/** Wrong tokens that are answered 401, per address; the others are answered 429. */
const LOOKED_AT = 10;

/** What each of many addresses tries, in token-guessing.yml. */
const TRIED = 15;

export const proves = "of wrong tokens exactly 10 an address (or /64) are answered 401, at both doors together, and open nothing; the right ones always open";

export const vars = { RATE_LIMIT_ADMIN: `${LOOKED_AT},60,300` };

export const variables = () => ({ adminToken: ADMIN_TOKEN, checkToken: CHECK_TOKEN });

/** Every wrong token is on record, those that were answered 429 as well. */
export const recorded = (run) => run.all("refused") + run.all("denied");

export async function judge({ run, criteria, redis, ask }) {
  for (const name of ["guesser", "network"]) {
    criteria.atLeast(`${name}: wrong tokens, more than its limit`, run.sent(name), LOOKED_AT + 1);
    criteria.equal(`${name}: looked at, its limit`, run.of(name, "refused"), LOOKED_AT);
    criteria.equal(`${name}: answered 429, all others`, run.of(name, "denied"), run.sent(name) - LOOKED_AT);
  }
  for (const name of ["admin-guessers", "check-guessers"]) {
    const addresses = run.sent(name) / TRIED;
    criteria.atLeast(`${name}: addresses`, addresses, 1);
    criteria.equal(`${name}: looked at, the limit of each`, run.of(name, "refused"), LOOKED_AT * addresses);
    criteria.equal(`${name}: answered 429, all others`, run.of(name, "denied"), (TRIED - LOOKED_AT) * addresses);
  }
  criteria.equal("what wrong tokens, or none, opened", run.all("opened") - run.of("operator", "opened") - run.of("server", "opened"), 0);
  criteria.equal("what they blocked", (await ask(OPERATOR, "/_limiter/blocked", { Authorization: `Bearer ${ADMIN_TOKEN}` })).json().blocked, []);
  for (const name of ["operator", "server"]) {
    criteria.allServed(name);
    criteria.equal(`${name}: opened, all`, run.of(name, "opened"), run.sent(name));
  }
  criteria.allServed("public");
  criteria.equal("Redis has counted the server's checks and nobody else's", await redis.total("general"), run.of("server", "admitted"));

  const right = { Authorization: `Bearer ${ADMIN_TOKEN}` };
  const statuses = async (caller) => [(await ask(caller, "/_limiter/blocked", right)).status, (await ask(caller, "/_limiter/health")).status, (await ask(caller, "/api/products")).status];
  criteria.equal("the guesser: the right token opens, health and traffic go on", await statuses("198.51.100.90"), [200, 200, 200]);
  criteria.equal("the network: the same, from an address that it has not had", await statuses("2001:db8:bad:1::1"), [200, 200, 200]);
  criteria.equal("next door to both, it opens", await statuses("198.51.100.89").then(async (one) => [one, await statuses("2001:db8:bad:2::1")]), [[200, 200, 200], [200, 200, 200]]);
}

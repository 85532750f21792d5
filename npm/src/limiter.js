/** The package: one limiter for an application, in its own process (types/index.d.ts). */
import {
  VERDICT, apply, begin, beginCall, calledParts, controlPlane, disconnect, drive, limit, operate, ownAnswer, ownParts, prepare, runDuties, tend, verdictParts, waits,
} from "./engine.js";
import { incomingOf } from "./current.js";
import { LimiterError, isText } from "./errors.js";
import { CALL_OPTIONS, addressOf, checked, known, readEnvironment, waitUntilOf } from "./options.js";
import { fileAnswer } from "./page.js";
import { useForFetch } from "./fetch-options.js";
import { fetchOptions } from "#platform";
import { redisOf } from "./redis.js";
import { Verdict } from "./verdict.js";

export { LimiterError } from "./errors.js";

useForFetch(fetchOptions);

export const createLimiter = (options) => new Limiter(checked(options));

/** Codes of answers that have none. */
const CODES = { 400: "bad_argument", 404: "bad_argument", 413: "bad_argument", 409: "refused", 503: "store_unavailable" };

class Limiter {
  #options;
  #environment;

  constructor(options) {
    this.#options = options;
    // Nothing of these has to happen after the request.
    const call = (how, text) => this.#call(how, text, {}, false);
    this.redis = redisOf({
      operate: (method, path, body) => call(operate, lines(method, path, body)),
      apply: (words) => call(apply, JSON.stringify(words)),
    });
  }

  async limit(request, options) {
    const answered = (kind) => (kind === VERDICT ? verdictParts() : { ...ownParts(), allowed: false, blocked: false, degraded: false });
    const parts = await this.#decide(limit, request, options, answered);
    return new Verdict(parts.isFile ? { ...parts, ...(await fileAnswer(parts.body, parts.status, parts.headers, request)) } : parts);
  }

  async controlPlane(request, options) {
    return this.#decide(controlPlane, request, options, () => ownAnswer(request));
  }

  async check(policy, identifier, options) {
    const { cost = 1, ...call } = known(options, ["cost", ...CALL_OPTIONS]);
    named("policy", policy, "bad_argument");
    named("identifier", identifier, "bad_identifier");
    if (!Number.isInteger(cost) || cost < 0 || cost > 0xffffffff) throw new LimiterError("bad_argument", "cost must be a whole number, 0 to 4294967295.");
    const answer = await this.#call(operate, lines("POST", "/check", JSON.stringify({ policy, identifier, cost })), call);
    const { allowed, limit: most, remaining, reset, retry_after: retryAfter, blocked, exempt, results } = answer;
    return {
      allowed, policy, limit: most, remaining, reset, retryAfter: retryAfter ?? undefined, blocked, exempt, shadow: results[0].shadow ?? false,
    };
  }

  async usage(policy, caller, options) {
    const answer = await this.#call(operate, lines("GET", usagePath(policy, caller)), options);
    const { blocked_until: blockedUntil, retry_at: retryAt, ...usage } = answer;
    return { ...usage, blockedUntil: blockedUntil ?? undefined, retryAt: retryAt ?? undefined };
  }

  async reset(policy, caller, options) {
    await this.#call(operate, lines("DELETE", usagePath(policy, caller)), options);
  }

  async health(options) {
    return this.#call(operate, lines("GET", "/health"), options);
  }

  async tend(options) {
    const { waitUntil } = this.#prepare(options);
    const begun = [];
    tend((promise) => begun.push(promise), false);
    await Promise.all(begun);
    runDuties(waitUntil);
  }

  async close() {
    const vars = this.#environment?.vars;
    if (vars === undefined) return;
    this.#environment = undefined;
    const others = users.get(vars) - 1;
    users.set(vars, others);
    // Limiters of like variables share their connections.
    if (others === 0) await disconnect(vars);
  }

  #begin() {
    const environment = readEnvironment(this.#options);
    users.set(environment.vars, (users.get(environment.vars) ?? 0) + 1);
    return environment;
  }

  /** An environment in force, and where background work goes. */
  #prepare(options, needsWaitUntil = true) {
    const environment = (this.#environment ??= this.#begin());
    const call = known(options, CALL_OPTIONS);
    const waitUntil = waitUntilOf(call, this.#options, environment, needsWaitUntil);
    return { call, environment, waitUntil, setup: prepare(environment.vars, this.#options.client) };
  }

  async #decide(how, request, options, finish) {
    const { call, environment, waitUntil, setup } = this.#prepare(options);
    const address = addressOf(environment, setup, this.#options.trustProxy, request, call.address);
    const incoming = incomingOf(request, setup, address);
    const kind = begin(incoming, how);
    const { done } = waits(kind) ? await drive(kind, incoming, finish, waitUntil) : { done: finish(kind) };
    runDuties(waitUntil);
    return done;
  }

  /** What the application asks itself: the answer, or a `LimiterError`. */
  async #call(how, text, options, needsWaitUntil = true) {
    const { waitUntil } = this.#prepare(options, needsWaitUntil);
    const kind = beginCall(how, text);
    const { done } = waits(kind) ? await drive(kind, undefined, calledParts, waitUntil ?? ignored) : { done: calledParts() };
    if (waitUntil) runDuties(waitUntil);
    const answer = JSON.parse(done.body);
    if (done.status < 400) return answer;
    throw new LimiterError(answer.code ?? CODES[done.status] ?? "refused", answer.message);
  }
}

/** How many limiters use an environment. */
const users = new WeakMap();

const ignored = () => {};

const lines = (method, path, body = "") => `${method}\n${path}\n${body}`;

function usagePath(policy, caller) {
  named("policy", policy, "bad_argument");
  named("caller", caller, "bad_identifier");
  return `/usage/${encodeURIComponent(policy)}/${encodeURIComponent(caller)}?as=identifier`;
}

function named(what, text, code) {
  if (!isText(text) || text === "") throw new LimiterError(code, `${what} must be a text that is not empty.`);
}

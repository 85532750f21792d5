/** The package's main entry: a limiter within an application's process (types/index.d.ts). */
import {
  VERDICT, answerParts, apply, begin, beginCall, callParts, controlPlane, disconnect, drive, limit, operate, ownAnswer, prepare, runDuties, tend, verdictParts, waits,
} from "./engine.js";
import { incomingOf } from "./current.js";
import { LimiterError, isText } from "./errors.js";
import { CALL_OPTIONS, addressOf, checkNames, checkOptions, readEnvironment, waitUntilOf } from "./options.js";
import { fileAnswer } from "./page.js";
import { useForFetch } from "./fetch-options.js";
import { fetchOptions } from "#platform";
import { redisOf } from "./redis.js";
import { Verdict } from "./verdict.js";

export { LimiterError } from "./errors.js";

useForFetch(fetchOptions);

export const createLimiter = (options) => new Limiter(checkOptions(options));

/** Error codes by status, for answers without a code. */
const CODE_BY_STATUS = { 400: "bad_argument", 404: "bad_argument", 413: "bad_argument", 409: "refused", 503: "store_unavailable" };

class Limiter {
  #options;
  #environment;

  constructor(options) {
    this.#options = options;
    // These calls leave no background work that has to be done, so they need no `waitUntil`.
    const call = (start, text) => this.#call(start, text, {}, false);
    this.redis = redisOf({
      operate: (method, path, body) => call(operate, lines(method, path, body)),
      apply: (words) => call(apply, JSON.stringify(words)),
    });
  }

  async limit(request, options) {
    const finish = (kind) => (kind === VERDICT ? verdictParts() : { ...answerParts(), allowed: false, blocked: false, degraded: false });
    const parts = await this.#decide(limit, request, options, finish);
    return new Verdict(parts.isFile ? { ...parts, ...(await fileAnswer(parts.body, parts.status, parts.headers, request)) } : parts);
  }

  async controlPlane(request, options) {
    return this.#decide(controlPlane, request, options, () => ownAnswer(request));
  }

  async check(policy, identifier, options) {
    const { cost = 1, ...call } = checkNames(options, ["cost", ...CALL_OPTIONS]);
    requireName("policy", policy, "bad_argument");
    requireName("identifier", identifier, "bad_identifier");
    if (!Number.isInteger(cost) || cost < 0 || cost > 0xffffffff) throw new LimiterError("bad_argument", "cost must be a whole number of units, 0 to 4294967295.");
    const answer = await this.#call(operate, lines("POST", "/check", JSON.stringify({ policy, identifier, cost })), call);
    const { allowed, limit: limitOfPolicy, remaining, reset, retry_after: retryAfter, blocked, exempt, results } = answer;
    return {
      allowed, policy, limit: limitOfPolicy, remaining, reset, retryAfter: retryAfter ?? undefined, blocked, exempt, shadow: results[0].shadow ?? false,
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
    const others = limitersPerEnvironment.get(vars) - 1;
    limitersPerEnvironment.set(vars, others);
    // Limiters with the same variables share their connections, so the last one closes them.
    if (others === 0) await disconnect(vars);
  }

  #openEnvironment() {
    const environment = readEnvironment(this.#options);
    limitersPerEnvironment.set(environment.vars, (limitersPerEnvironment.get(environment.vars) ?? 0) + 1);
    return environment;
  }

  /** Puts the environment in force, and finds `waitUntil`. */
  #prepare(options, needsWaitUntil = true) {
    const environment = (this.#environment ??= this.#openEnvironment());
    const call = checkNames(options, CALL_OPTIONS);
    const waitUntil = waitUntilOf(call, this.#options, environment, needsWaitUntil);
    return { call, environment, waitUntil, setup: prepare(environment.vars, this.#options.client) };
  }

  async #decide(start, request, options, finish) {
    const { call, environment, waitUntil, setup } = this.#prepare(options);
    const address = addressOf(environment, setup, this.#options.trustProxy, request, call.address);
    const incoming = incomingOf(request, setup, address);
    const kind = begin(incoming, start);
    const { done } = waits(kind) ? await drive(kind, incoming, finish, waitUntil) : { done: finish(kind) };
    runDuties(waitUntil);
    return done;
  }

  /** Makes a call of the application. Returns the answer, or throws a `LimiterError`. */
  async #call(start, text, options, needsWaitUntil = true) {
    const { waitUntil } = this.#prepare(options, needsWaitUntil);
    const kind = beginCall(start, text);
    const { done } = waits(kind) ? await drive(kind, undefined, callParts, waitUntil ?? ignorePromise) : { done: callParts() };
    if (waitUntil) runDuties(waitUntil);
    const answer = JSON.parse(done.body);
    if (done.status < 400) return answer;
    throw new LimiterError(answer.code ?? CODE_BY_STATUS[done.status] ?? "refused", answer.message);
  }
}

/** How many limiters use each environment, by its variables. */
const limitersPerEnvironment = new WeakMap();

const ignorePromise = () => {};

const lines = (method, path, body = "") => `${method}\n${path}\n${body}`;

function usagePath(policy, caller) {
  requireName("policy", policy, "bad_argument");
  requireName("caller", caller, "bad_identifier");
  return `/usage/${encodeURIComponent(policy)}/${encodeURIComponent(caller)}?as=identifier`;
}

function requireName(argument, text, code) {
  if (!isText(text) || text === "") throw new LimiterError(code, `${argument} must be a non-empty string of valid Unicode.`);
}

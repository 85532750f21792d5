/**
 * The module's tasks, driven: a request enters WebAssembly once with its fields, leaves it with one step at a time, and each
 * step is a number and one text. No platform's own objects cross.
 */
import * as module from "#module";
import { asVariable, isOdd, namesOf, setCurrent, takeOutlives } from "./current.js";
import { fetchKeySet, readText, sleep, verify } from "./effects.js";
import { fileAnswer } from "./page.js";
import { overRest } from "./transport/rest.js";
import { REACH, connect } from "#transport";

/** Kinds of steps (src/wire.rs); what neither waits, nor is forwarded, nor is a verdict is an answer. */
export const FORWARD = 2;
const REDIS = 3;
const SLEEP = 4;
const VERIFY = 5;
const KEY_SET = 6;
const BODY = 7;
export const VERDICT = 8;

/** Room for a text that is kept; one that takes more gets room of its own. */
const KEPT_ROOM = 16 * 1024;

/** The most of an address or a loop guard that is copied: as much as is read of either, or more (src/client.rs, src/loop_guard.rs). */
const MAX_FIELD_CHARS = 1024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Counts the module's instances: a panic leaves an instance's memory in no known state, and the next request starts another. */
let instance = 0;
let trapped = false;

/**
 * What each environment has come to: the `instance` that is configured with it and its `number` there, the `header` with the
 * caller's address, headers that do not reach the origin, and those of which only other spellings do not (src/headers.rs).
 */
const setups = new WeakMap();

/** The environment that is in force, and its setup. */
let environment, inForce;

/** How the instance's configurations call their Redis (transport/). */
let transports = [];

/** Views of the instance's memory, made anew when it grows. */
let memory, bytes, numbers, input;
let room = { address: 0, size: 0 };

/** An instance that works. */
function revive() {
  if (!trapped) return;
  console.log("Reinitializing Wasm application");
  module.__wbg_reset_state();
  trapped = false;
  memory = environment = undefined;
  for (const transport of transports) transport?.close?.();
  transports = [];
  room = { address: 0, size: 0 };
}

/**
 * Before a request: an instance that works, with this environment in force. Returns its setup.
 *
 * @param {object} env
 * @param {import("./transport/client.js").Client} [client] the application's own way to Redis, the same for each `env`
 */
export function prepare(env, client) {
  revive();
  if (env !== environment) {
    const known = setups.get(env);
    const stands = known?.instance === instance && guarded(() => module.select(known.number));
    inForce = stands ? known : configure(env, client);
    environment = env;
  }
  return inForce;
}

function configure(env, client) {
  const named = client ? 2 * client.number + Number(client.isCluster) : 0;
  const { number, header, redis, ...names } = JSON.parse(guarded(() => module.configure(env, REACH, named)));
  if (redis) transports[number] = transportTo(redis, client);
  const notForwarded = new Set(names.notForwarded.split(","));
  const otherSpellings = new Set([...notForwarded, ...names.otherSpellingsNotForwarded.split(",")]);
  const setup = { instance, number, header, notForwarded, otherSpellings };
  setups.set(env, setup);
  return setup;
}

function transportTo(redis, client) {
  switch (redis.kind) {
    case "rest": return overRest(redis);
    case "client": return client.transport;
  }
  return connect(redis, readReplies);
}

/** Ends what an environment's configuration has opened to reach its Redis; a later call opens it anew. */
export async function disconnect(env) {
  const known = setups.get(env);
  if (known?.instance === instance) await transports[known.number]?.close?.();
}

/** What the module can do with a request: answer or forward it; only decide it; answer it if it is the control plane's. */
export const handle = (length) => module.begin(length);
export const limit = (length) => module.limit(length);
export const controlPlane = (length) => module.control_plane(length);

/** Begins a request; the kind of its first step. */
export function begin(incoming, how = handle) {
  const { request, setup } = incoming;
  const { headers } = request;
  // The rest is not copied: a longer address is refused, and limiters add their names at a loop guard's end.
  const given = incoming.address === undefined ? headers.get(setup.header) : incoming.address;
  const address = given?.slice(0, MAX_FIELD_CHARS) ?? "";
  const loopGuard = headers.get("x-edge-limiter-passed")?.slice(-MAX_FIELD_CHARS) ?? "";
  const length = put(`${request.method}\n${request.url}\n${address}\n${loopGuard}`);
  setCurrent(incoming);
  // Of a task that ended without a wait.
  takeOutlives();
  return guarded(() => how(length));
}

/** What the application asks the control plane itself, without a token: `METHOD`, path and body by line feeds. */
export const operate = (length) => module.operate(length);

/** What the application does with its own keys and events: a JSON list. */
export const apply = (length) => module.application(length);

/** Begins a call of the application, apart from any request; the kind of its first step. */
export function beginCall(how, text) {
  const length = put(text);
  setCurrent(undefined);
  takeOutlives();
  return guarded(() => how(length));
}

/** Whether a task waits for an effect. */
export const waits = (kind) => kind >= REDIS && kind !== VERDICT;

/**
 * Performs what a task asks for until it ends. A step is to be read before anything else of the module runs, the next
 * microtask of another request included: so `finish` is called with the kind of the last one at once, and its result is
 * returned in an object, which no `await` on the way looks into.
 *
 * @template T
 * @param {number} kind of the first step, which waits
 * @param {ReturnType<typeof import("./current.js").incomingOf> | undefined} incoming
 * @param {(kind: number) => T} finish
 * @param {(promise: Promise<unknown>) => void} waitUntil for a task that is to end even if its client disconnects
 * @param {boolean} isApart nobody awaits it: a process need not go on for its waits
 * @returns {Promise<{done: T}>}
 */
export async function drive(kind, incoming, finish, waitUntil, isApart = false) {
  const born = instance;
  let end;
  try {
    for (;;) {
      // What it waits for now and later is kept alive with it.
      if (takeOutlives() && !end) waitUntil(new Promise((resolve) => (end = resolve)));
      const [task, first, second] = step();
      const text = take();
      const [status, body] = await perform(kind, first, second, text, incoming, isApart);
      if (born !== instance) throw new Error("The limiter has been started anew");
      const length = put(body);
      setCurrent(incoming);
      const asked = kind;
      kind = guarded(() => module.resume(task, asked, status, length));
      if (!waits(kind)) return { done: finish(kind) };
    }
  } finally {
    end?.();
  }
}

function perform(kind, first, second, text, incoming, isApart) {
  switch (kind) {
    case REDIS: return transports[first].call(text, second);
    case SLEEP: return sleep(first, isApart);
    case VERIFY: return verify(text);
    case KEY_SET: return fetchKeySet(text);
    case BODY: return readText(incoming.request, first);
  }
  throw new Error(`unknown step ${kind}`);
}

/** Runs the duties that are due, apart from any request: each is given to `waitUntil`, and none fails the request. */
export function runDuties(waitUntil) {
  apart(() => {
    for (let kind; (kind = guarded(() => module.duty())) !== 0; ) waitUntil(driveApart(kind, waitUntil));
  });
}

/** Does what is to be done regularly. It ends with what it has given to `waitUntil`. */
export function tend(waitUntil, isApart = true) {
  apart(() => {
    const kind = guarded(() => module.tend());
    if (kind !== 0) waitUntil(driveApart(kind, waitUntil, isApart));
  });
}

const driveApart = (kind, waitUntil, isApart = true) => drive(kind, undefined, () => {}, waitUntil, isApart).catch(failed);

function apart(begin) {
  setCurrent(undefined);
  try {
    begin();
  } catch (error) {
    failed(error);
  }
}

/** A trap is logged where it happens. */
function failed(error) {
  if (!trapped) console.error("A background duty has failed:", error);
}

/** The numbers of the last step: task, then two by its kind. */
export function step() {
  view();
  return [numbers[2], numbers[3], numbers[4]];
}

/** The text of the last step. */
export function take() {
  view();
  // Not as a pattern, which would walk the array.
  const place = numbers[0];
  const length = numbers[1];
  return length === 0 ? "" : decoder.decode(bytes.subarray(place, place + length));
}

/**
 * An answer of the limiter's own to a request: its status, headers and body. It is promised where the body is a file.
 * (workerd takes a record of headers for less than a list.)
 */
export function ownAnswer(request) {
  const { isFile, status, headers, body } = ownParts();
  if (!isFile) return new Response(body, { status, headers });
  return fileAnswer(body, status, headers, request).then((file) => new Response(file.body, file));
}

/** The same in parts. */
export function ownParts() {
  view();
  const isFile = numbers[2] !== 0;
  const status = numbers[3];
  const head = numbers[4];
  const text = take();
  return { isFile, status, headers: headersOf(text.slice(0, head).split("\n"), 0), body: text.slice(head) };
}

/** Of an answer to a call of the application, what matters to it. */
export function calledParts() {
  view();
  const status = numbers[3];
  const head = numbers[4];
  return { status, body: take().slice(head) };
}

/** Names and values in turn as a record. The last part is empty. */
function headersOf(parts, at) {
  const headers = {};
  for (; at + 1 < parts.length; at += 2) headers[parts[at]] = parts[at + 1];
  return headers;
}

/** Flags of a verdict (src/wire.rs). */
const IS_ALLOWED = 1;
const IS_BLOCKED = 2;
const IS_DEGRADED = 4;
const IS_FILE = 8;

/** What was decided about a request, as the last step says. */
export function verdictParts() {
  view();
  const flags = numbers[2];
  const status = numbers[3];
  const head = numbers[4];
  const text = take();
  const parts = text.slice(0, head).split("\n");
  const number = (part) => (part === "" ? undefined : Number(part));
  const afterRemoved = parts.indexOf("", FIRST_REMOVED);
  return {
    allowed: (flags & IS_ALLOWED) !== 0,
    blocked: (flags & IS_BLOCKED) !== 0,
    degraded: (flags & IS_DEGRADED) !== 0,
    isFile: (flags & IS_FILE) !== 0,
    status,
    policy: parts[0] || undefined,
    limit: number(parts[1]),
    remaining: number(parts[2]),
    reset: number(parts[3]),
    retryAfter: number(parts[4]),
    exempt: parts[5] || undefined,
    exposed: parts[6],
    removed: parts.slice(FIRST_REMOVED, afterRemoved),
    headers: headersOf(parts, afterRemoved + 1),
    body: text.slice(head),
  };
}

/** Where the list of names to remove begins in a verdict's head. */
const FIRST_REMOVED = 7;

/** Removes from `headers`, a copy of those that came, what does not reach the origin. */
export function removeOwn(headers, incoming) {
  const { notForwarded, otherSpellings } = incoming.setup;
  for (const name of namesOf(incoming)) {
    if (isOdd(name) ? otherSpellings.has(asVariable(name)) : notForwarded.has(name)) headers.delete(name);
  }
}

/** The answer to a request whose origin has none: it cannot be reached, or sent an interim response of that status. */
export function badGateway(incoming, env, interim = 0) {
  prepare(env);
  setCurrent(incoming);
  guarded(() => module.bad_gateway(interim));
  return ownAnswer(incoming.request);
}

/** What a header of the origin's answer is to be that leads to the origin; `undefined`: it leads elsewhere. */
export function redirected(name, origin, url, value) {
  revive();
  const length = put(`${name}\n${origin}\n${url}\n${value}`);
  return guarded(() => module.redirected(length)) ? take() : undefined;
}

/** The instance that has decided a request: what it remembers of it ends with it. */
export const current = () => instance;

/** The status with which a sampled request was answered. */
export function forwarded(sample, status) {
  setCurrent(undefined);
  guarded(() => module.forwarded(sample, status));
}

/**
 * Reads replies in Redis's own protocol, as `Written::replies` does (src/wire.rs).
 *
 * @param {string} state
 * @param {Uint8Array} arrived
 * @returns {[status: number, read: number, needed: number, text: string]}
 */
function readReplies(state, arrived) {
  const head = encoder.encode(`${state}\n`);
  const length = head.length + arrived.length;
  makeRoomFor(length);
  input.set(head);
  input.set(arrived, head.length);
  const status = guarded(() => module.replies(length));
  const [, read, needed] = step();
  return [status, read, needed, take()];
}

/** Writes a text into the instance's memory; its length in bytes. */
function put(text) {
  if (text.length === 0) return 0;
  // A unit of UTF-16 takes three bytes at the most.
  if (3 * text.length > KEPT_ROOM) {
    const long = encoder.encode(text);
    makeRoomFor(long.length);
    input.set(long);
    return long.length;
  }
  makeRoomFor(3 * text.length);
  return encoder.encodeInto(text, input).written;
}

function makeRoomFor(size) {
  if (size > KEPT_ROOM) makeRoom(size);
  else if (room.size !== KEPT_ROOM) makeRoom(KEPT_ROOM);
  else view();
}

function makeRoom(size) {
  room = { address: guarded(() => module.room(size)), size };
  input = undefined;
  view();
}

function view() {
  memory ??= module.linear_memory();
  if (bytes?.buffer !== memory.buffer) {
    bytes = new Uint8Array(memory.buffer);
    numbers = new Uint32Array(memory.buffer, guarded(() => module.numbers()), 5);
    input = undefined;
  }
  input ??= new Uint8Array(memory.buffer, room.address, room.size);
}

/**
 * A call of the module, which traps where Rust panics. An exception of what it calls here has crossed it as well, and left
 * borrowed what it had borrowed. A text is what the module itself throws.
 */
function guarded(call) {
  try {
    return call();
  } catch (error) {
    if (typeof error !== "string" && !trapped) {
      console.error("Critical", error);
      trapped = true;
      instance += 1;
    }
    throw error;
  }
}

/**
 * The module's tasks, driven: a request enters WebAssembly once with its fields, leaves it with one step at a time, and each
 * step is a number and one text. No platform's own objects cross.
 */
import * as module from "./index.js";
import { asVariable, isOdd, namesOf, setCurrent, takeOutlives } from "./current.js";
import { callRedis, fetchKeySet, readText, sleep, verify } from "./effects.js";
import { fileAnswer } from "./page.js";

/** Kinds of steps (src/wire.rs); what neither waits nor is forwarded is an answer. */
export const FORWARD = 2;
const REDIS = 3;
const SLEEP = 4;
const VERIFY = 5;
const KEY_SET = 6;
const BODY = 7;

/** Room for a text that is kept; one that takes more gets room of its own. */
const KEPT_ROOM = 16 * 1024;

/** The most of an address or a loop guard that is copied: as much as is read of either, or more (src/client.rs, src/loop_guard.rs). */
const MAX_FIELD_CHARS = 1024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Counts the module's instances: a panic leaves an instance's memory in no known state, and the next request starts another. */
let instance = 0;
let trapped = false;

/** The environment that the instance is configured with, and the header with the caller's address in it. */
let environment;
let addressHeader;

/** Headers that do not reach the origin, and those of which only other spellings do not (src/headers.rs). */
let notForwarded, otherSpellings;

/** Where the instance's configurations have their Redis: of each its URL, then its `/multi-exec`. */
let endpoints = [];

/** Views of the instance's memory, made anew when it grows. */
let memory, bytes, numbers, input;
let room = { address: 0, size: 0 };

// Both are in an error's stack: the Wasm functions' and the ones that called them.
Error.stackTraceLimit = 100;

/** An instance that works. */
function revive() {
  if (!trapped) return;
  console.log("Reinitializing Wasm application");
  module.__wbg_reset_state();
  trapped = false;
  memory = environment = undefined;
  endpoints = [];
  room = { address: 0, size: 0 };
}

/** Before a request: an instance that works, configured with this environment. */
export function prepare(env) {
  revive();
  if (env !== environment) {
    const { number, header, url, token, ...names } = JSON.parse(guarded(() => module.configure(env)));
    // The runtime takes these for less than a record of headers.
    const headers = new Headers({ Authorization: `Bearer ${token}`, "Content-Type": "application/json" });
    const transactions = `${url?.replace(/\/+$/, "")}/multi-exec`;
    endpoints[2 * number] = { url, headers };
    endpoints[2 * number + 1] = { url: transactions, headers };
    addressHeader = header;
    notForwarded = new Set(names.notForwarded.split(","));
    otherSpellings = new Set([...notForwarded, ...names.otherSpellingsNotForwarded.split(",")]);
    environment = env;
  }
}

/** Begins a request; the kind of its first step. */
export function begin(incoming) {
  const { request } = incoming;
  const { headers } = request;
  // The rest is not copied: a longer address is refused, and limiters add their names at a loop guard's end.
  const address = headers.get(addressHeader)?.slice(0, MAX_FIELD_CHARS) ?? "";
  const loopGuard = headers.get("x-edge-limiter-passed")?.slice(-MAX_FIELD_CHARS) ?? "";
  const length = put(`${request.method}\n${request.url}\n${address}\n${loopGuard}`);
  setCurrent(incoming);
  // Of a task that ended without a wait.
  takeOutlives();
  return guarded(() => module.begin(length));
}

/** Whether a task waits for an effect. */
export const waits = (kind) => kind >= REDIS;

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
 * @returns {Promise<{done: T}>}
 */
export async function drive(kind, incoming, finish, waitUntil) {
  const born = instance;
  let end;
  try {
    for (;;) {
      // What it waits for now and later is kept alive with it.
      if (takeOutlives() && !end) waitUntil(new Promise((resolve) => (end = resolve)));
      const [task, first, second] = step();
      const text = take();
      const [status, body] = await perform(kind, first, second, text, incoming);
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

function perform(kind, first, second, text, incoming) {
  switch (kind) {
    case REDIS: return callRedis(endpoints[first], second, text);
    case SLEEP: return sleep(first);
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
export function tend(waitUntil) {
  apart(() => {
    const kind = guarded(() => module.tend());
    if (kind !== 0) waitUntil(driveApart(kind, waitUntil));
  });
}

const driveApart = (kind, waitUntil) => drive(kind, undefined, () => {}, waitUntil).catch(failed);

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
  view();
  const isFile = numbers[2] !== 0;
  const status = numbers[3];
  const head = numbers[4];
  const text = take();
  const lines = text.slice(0, head).split("\n");
  const headers = {};
  for (let i = 0; i + 1 < lines.length; i += 2) headers[lines[i]] = lines[i + 1];
  const body = text.slice(head);
  return isFile ? fileAnswer(body, status, headers, request) : new Response(body, { status, headers });
}

/** Removes from `headers`, a copy of those that came, what does not reach the origin. */
export function removeOwn(headers, incoming) {
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

/** Writes a text into the instance's memory; its length in bytes. */
function put(text) {
  if (text.length === 0) return 0;
  // A unit of UTF-16 takes three bytes at the most.
  if (3 * text.length > KEPT_ROOM) {
    const long = encoder.encode(text);
    makeRoom(long.length);
    input.set(long);
    return long.length;
  }
  if (room.size !== KEPT_ROOM) makeRoom(KEPT_ROOM);
  else view();
  return encoder.encodeInto(text, input).written;
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

/** A call of the module, which traps where Rust panics. */
function guarded(call) {
  try {
    return call();
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError && !trapped) {
      console.error("Critical", error);
      trapped = true;
      instance += 1;
    }
    throw error;
  }
}

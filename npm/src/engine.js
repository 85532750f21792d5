/**
 * Drives the module's tasks. A request enters WebAssembly once, with its fields, and leaves once for each step. A step is a few numbers
 * and one text: no object of the platform crosses the boundary.
 */
import * as module from "#module";
import { isPlain, namesOf, plainName, setCurrent, takeOutlivesClient } from "./current.js";
import { fetchKeySet, readText, sleep, verify } from "./effects.js";
import { fileAnswer } from "./page.js";
import { overRest } from "./transport/rest.js";
import { REACH, connect } from "#transport";

/** Kinds of steps (src/wire.rs). All others end a task with the limiter's own answer, or with nothing. */
export const FORWARD = 2;
const REDIS = 3;
const SLEEP = 4;
const VERIFY = 5;
const KEY_SET = 6;
const BODY = 7;
export const VERDICT = 8;

/** The input buffer in the module's memory has this size, except while a longer text is passed. */
const INPUT_BUFFER_BYTES = 16 * 1024;

/** How much of an address or a loop guard is passed to the module, which reads no more of either (src/client.rs, src/loop_guard.rs). */
const MAX_FIELD_CHARS = 1024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The number of the module's instance. After a panic an instance's memory is in an unknown state, so the next request starts another instance. */
let instance = 0;
let trapped = false;

/**
 * The setup of each environment: the `instance` that is configured with it, its `number` there, the `header` with the
 * caller's address, `notForwarded`, the headers that do not reach the origin, and `otherSpellings`, the plain names of all headers whose other
 * spellings do not reach it (src/headers.rs).
 */
const setups = new WeakMap();

/** The environment that is in force, and its setup. */
let environment, setupInForce;

/** How the instance's configurations call their Redis (transport/), by the number of the setup. */
let transports = [];

/** Views of the instance's memory. They are made again when it grows. */
let memory, bytes, numbers, input;
let inputBuffer = { address: 0, size: 0 };

/** Starts another instance of the module if the last one panicked. */
function ensureInstance() {
  if (!trapped) return;
  console.log("The WebAssembly module panicked and is started again. What it counted in memory is lost. Please report the panic logged above.");
  module.__wbg_reset_state();
  trapped = false;
  memory = environment = undefined;
  for (const transport of transports) transport?.close?.();
  transports = [];
  inputBuffer = { address: 0, size: 0 };
}

/**
 * Puts an environment in force. Call it before each request.
 *
 * @param {object} env
 * @param {import("./transport/client.js").Client} [client] the application's own Redis client, always the same one for the same `env`
 * @returns the environment's setup
 */
export function prepare(env, client) {
  ensureInstance();
  if (env !== environment) {
    const existing = setups.get(env);
    const isConfigured = existing?.instance === instance && guarded(() => module.select(existing.number));
    setupInForce = isConfigured ? existing : configure(env, client);
    environment = env;
  }
  return setupInForce;
}

function configure(env, client) {
  const clientNumber = client ? 2 * client.number + Number(client.isCluster) : 0;
  const { number, header, redis, ...names } = JSON.parse(guarded(() => module.configure(env, REACH, clientNumber)));
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

/** Closes the connections to Redis that an environment's configuration has opened. A later call opens them again. */
export async function disconnect(env) {
  const existing = setups.get(env);
  if (existing?.instance === instance) await transports[existing.number]?.close?.();
}

/** What the module can do with a request: answer or forward it (`handle`), decide it (`limit`), or answer it as the control plane. */
export const handle = (length) => module.begin(length);
export const limit = (length) => module.limit(length);
export const controlPlane = (length) => module.control_plane(length);

/** Begins a request, and returns the kind of its first step. */
export function begin(incoming, start = handle) {
  const { request, setup } = incoming;
  const { headers } = request;
  // Cutting is safe: a longer address is refused anyway, and limiters append their names at the end of the loop guard.
  const fullAddress = incoming.address === undefined ? headers.get(setup.header) : incoming.address;
  const address = fullAddress?.slice(0, MAX_FIELD_CHARS) ?? "";
  const loopGuard = headers.get("x-edge-limiter-passed")?.slice(-MAX_FIELD_CHARS) ?? "";
  const length = writeInput(`${request.method}\n${request.url}\n${address}\n${loopGuard}`);
  setCurrent(incoming);
  // An earlier task may have set this and ended without a wait.
  takeOutlivesClient();
  return guarded(() => start(length));
}

/** A call of the control plane by the application itself, without a token. Input: method, path and body, separated by line feeds. */
export const operate = (length) => module.operate(length);

/** A call for the application's own keys and events. Input: a JSON list. */
export const apply = (length) => module.application(length);

/** Begins a call of the application, which belongs to no request. Returns the kind of its first step. */
export function beginCall(start, text) {
  const length = writeInput(text);
  setCurrent(undefined);
  takeOutlivesClient();
  return guarded(() => start(length));
}

/** Whether a task waits for an effect. */
export const waits = (kind) => kind >= REDIS && kind !== VERDICT;

/**
 * Performs the effects that a task asks for until it ends. The module overwrites a step as soon as it runs again, which may be in
 * the next microtask, for another request. So `finish` is called with the kind of the last step at once. Its result is
 * returned inside an object: if it is a promise, no `await` on the way waits for it.
 *
 * @template T
 * @param {number} kind the kind of the first step, which waits
 * @param {ReturnType<typeof import("./current.js").incomingOf> | undefined} incoming
 * @param {(kind: number) => T} finish
 * @param {(promise: Promise<unknown>) => void} waitUntil keeps a task alive that has to end even if its client disconnects
 * @param {boolean} isBackground nobody awaits the task: a process may end while it sleeps
 * @returns {Promise<{done: T}>}
 */
export async function drive(kind, incoming, finish, waitUntil, isBackground = false) {
  const startedIn = instance;
  let end;
  try {
    for (;;) {
      // One promise, until the task ends, keeps all of its effects alive.
      if (takeOutlivesClient() && !end) waitUntil(new Promise((resolve) => (end = resolve)));
      const [task, first, second] = stepNumbers();
      const text = stepText();
      const [status, body] = await perform(kind, first, second, text, incoming, isBackground);
      if (startedIn !== instance) throw new Error("The limiter panicked on another request, which also ended this one. Send it again.");
      const length = writeInput(body);
      setCurrent(incoming);
      const performed = kind;
      kind = guarded(() => module.resume(task, performed, status, length));
      if (!waits(kind)) return { done: finish(kind) };
    }
  } finally {
    end?.();
  }
}

function perform(kind, first, second, text, incoming, isBackground) {
  switch (kind) {
    case REDIS: return transports[first].call(text, second);
    case SLEEP: return sleep(first, isBackground);
    case VERIFY: return verify(text);
    case KEY_SET: return fetchKeySet(text);
    case BODY: return readText(incoming.request, first);
  }
  throw new Error(`The WebAssembly module asks for a step of unknown kind ${kind}: build the module and the JavaScript from the same sources`);
}

/** Runs the duties that are due, in the background. Each is passed to `waitUntil`, and none can fail the request. */
export function runDuties(waitUntil) {
  inBackground(() => {
    for (let kind; (kind = guarded(() => module.duty())) !== 0; ) waitUntil(driveInBackground(kind, waitUntil));
  });
}

/** Does the regular work of the schedule. It has ended when the promises passed to `waitUntil` have settled. */
export function tend(waitUntil, isBackground = true) {
  inBackground(() => {
    const kind = guarded(() => module.tend());
    if (kind !== 0) waitUntil(driveInBackground(kind, waitUntil, isBackground));
  });
}

const driveInBackground = (kind, waitUntil, isBackground = true) => drive(kind, undefined, () => {}, waitUntil, isBackground).catch(logFailure);

function inBackground(begin) {
  setCurrent(undefined);
  try {
    begin();
  } catch (error) {
    logFailure(error);
  }
}

/** Logs why a duty failed. A panic has been logged where it happened. */
function logFailure(error) {
  if (!trapped) console.error("A background duty failed; requests are not affected:", error);
}

/** The numbers of the last step: the task's number, then two whose meaning depends on the kind. */
export function stepNumbers() {
  refreshViews();
  return [numbers[2], numbers[3], numbers[4]];
}

/** The text of the last step. */
export function stepText() {
  refreshViews();
  // Destructuring would iterate over the array, which is slower.
  const place = numbers[0];
  const length = numbers[1];
  return length === 0 ? "" : decoder.decode(bytes.subarray(place, place + length));
}

/**
 * The limiter's own answer to a request, as a `Response`, or as a promise of one if the body is a file.
 * (Headers are a record, because workerd reads a record faster than a list.)
 */
export function ownAnswer(request) {
  const { isFile, status, headers, body } = answerParts();
  if (!isFile) return new Response(body, { status, headers });
  return fileAnswer(body, status, headers, request).then((file) => new Response(file.body, file));
}

/** The parts of the limiter's own answer. If `isFile`, the body is a file's name. */
export function answerParts() {
  refreshViews();
  const isFile = numbers[2] !== 0;
  const status = numbers[3];
  const head = numbers[4];
  const text = stepText();
  return { isFile, status, headers: headersOf(text.slice(0, head).split("\n"), 0), body: text.slice(head) };
}

/** The status and body of the answer to a call of the application. */
export function callParts() {
  refreshViews();
  const status = numbers[3];
  const head = numbers[4];
  return { status, body: stepText().slice(head) };
}

/** Makes a record of headers from a list in which names and values alternate. The last part of the list is empty. */
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

/** The verdict on a request, from the last step. */
export function verdictParts() {
  refreshViews();
  const flags = numbers[2];
  const status = numbers[3];
  const head = numbers[4];
  const text = stepText();
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

/** The place in a verdict's head at which the list of headers to remove begins. */
const FIRST_REMOVED = 7;

/** Removes the headers that do not reach the origin from `headers`, a copy of the request's own. */
export function removeNotForwarded(headers, incoming) {
  const { notForwarded, otherSpellings } = incoming.setup;
  for (const name of namesOf(incoming)) {
    if (isPlain(name) ? notForwarded.has(name) : otherSpellings.has(plainName(name))) headers.delete(name);
  }
}

/** The answer if the origin gave none: it cannot be reached (`interim` is 0), or it sent an interim response with the status `interim`. */
export function badGateway(incoming, env, interim = 0) {
  prepare(env);
  setCurrent(incoming);
  guarded(() => module.bad_gateway(interim));
  return ownAnswer(incoming.request);
}

/** The public form of a redirecting header that leads to the origin, around the limiter; `undefined` if it leads elsewhere. */
export function redirected(name, origin, url, value) {
  ensureInstance();
  const length = writeInput(`${name}\n${origin}\n${url}\n${value}`);
  return guarded(() => module.redirected(length)) ? stepText() : undefined;
}

/** The number of the module's instance. An instance that ends forgets its requests, so a later one cannot be asked about them. */
export const currentInstance = () => instance;

/** Reports the status with which a sampled request was answered. */
export function forwarded(sample, status) {
  setCurrent(undefined);
  guarded(() => module.forwarded(sample, status));
}

/**
 * Reads replies in Redis's own protocol. `EncodedStep::replies` (src/wire.rs) explains the arguments and results.
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
  const [, read, needed] = stepNumbers();
  return [status, read, needed, stepText()];
}

/** Writes a text into the input buffer, and returns its length in bytes. */
function writeInput(text) {
  if (text.length === 0) return 0;
  // In UTF-8, a UTF-16 unit takes at most three bytes.
  if (3 * text.length > INPUT_BUFFER_BYTES) {
    const long = encoder.encode(text);
    makeRoomFor(long.length);
    input.set(long);
    return long.length;
  }
  makeRoomFor(3 * text.length);
  return encoder.encodeInto(text, input).written;
}

function makeRoomFor(size) {
  if (size > INPUT_BUFFER_BYTES) allocateInput(size);
  else if (inputBuffer.size !== INPUT_BUFFER_BYTES) allocateInput(INPUT_BUFFER_BYTES);
  else refreshViews();
}

function allocateInput(size) {
  inputBuffer = { address: guarded(() => module.room(size)), size };
  input = undefined;
  refreshViews();
}

function refreshViews() {
  memory ??= module.linear_memory();
  if (bytes?.buffer !== memory.buffer) {
    bytes = new Uint8Array(memory.buffer);
    numbers = new Uint32Array(memory.buffer, guarded(() => module.numbers()), 5);
    input = undefined;
  }
  input ??= new Uint8Array(memory.buffer, inputBuffer.address, inputBuffer.size);
}

/**
 * Calls the module. The module traps if Rust panics. An exception thrown by JavaScript that the module called is as bad: it unwinds through the
 * module, whose borrows are then never released. After either, the next request starts another instance. A string is an error that the module itself throws, and harmless.
 */
function guarded(call) {
  try {
    return call();
  } catch (error) {
    if (typeof error !== "string" && !trapped) {
      console.error("The limiter's WebAssembly module failed; the next request starts a new instance of it:", error);
      trapped = true;
      instance += 1;
    }
    throw error;
  }
}

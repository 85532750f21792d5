/**
 * Access to the inside of an isolate: puts its clock forward, makes it trap in the middle of a request, simulates thousands of callers,
 * and reads the size of its memory. Additional modules are loaded before the Worker's module and replace the functions that its
 * WebAssembly instances import. The Worker itself stays as it was built.
 */

import { send } from "./request.mjs";

/**
 * A request with this header traps, as a Rust panic that aborts does. The value is the beginning of an import's name (`now`, `header`):
 * the next call of that import traps. `now 2` traps at the second call. `resume` traps when a task is resumed with the answer to an
 * effect, `resume 2` at the second time.
 */
export const TRAP = "X-Inside-Trap";

/** A request with this header makes the isolate itself send requests of many callers: `FIRST COUNT`, numbers of addresses. */
const CALLERS = "X-Inside-Callers";

/** A request with this header puts the isolate's clock forward by so many milliseconds. */
const CLOCK = "X-Inside-Clock";

/** `(module (func (export "trap") unreachable))`. A separate module, because the runtime does not compile bytes that a Worker carries as data. */
const UNREACHABLE = Buffer.from("0061736d0100000001040160000003020100070801047472617000000a05010300000b", "hex");

/** Evaluated before the Worker's module, so that the Worker's first instance also gets these imports. */
const PATCH = `
import unreachable from "./unreachable.wasm";

const { Instance } = WebAssembly;
const { trap } = new Instance(unreachable).exports;

export const inside = {
  ahead: 0,
  bytes: () => latest.exports.memory.buffer.byteLength,
  arm(text) {
    const [name, calls = 1] = text.split(" ");
    armed = { name: name === "resume" ? name : "__wbg_" + name + "_", calls: Number(calls) };
  },
};
let latest, armed;

const now = Date.now;
Date.now = () => now() + inside.ahead;

WebAssembly.Instance = new Proxy(Instance, {
  construct(target, [module, imports]) {
    const functions = imports["./index_bg.js"];
    for (const [name, original] of Object.entries(functions)) {
      if (typeof original !== "function") continue;
      functions[name] = (...given) => {
        if (armed && name.startsWith(armed.name) && --armed.calls === 0) {
          armed = undefined;
          trap();
        }
        return original(...given);
      };
    }
    latest = new target(module, imports);
    const { resume } = latest.exports;
    const counted = (...given) => {
      // A resumed task reads the clock first.
      if (armed?.name === "resume" && --armed.calls === 0) armed = { name: "__wbg_now_", calls: 1 };
      return resume(...given);
    };
    return { exports: { ...latest.exports, resume: counted } };
  },
});
`;

const MAIN = `
import { inside } from "./inside.js";
import limiter from "./index.js";

export default {
  async fetch(request, env, context) {
    const { headers } = request;
    if (headers.has("${CLOCK}")) {
      inside.ahead += Number(headers.get("${CLOCK}"));
      return Response.json({ bytes: inside.bytes() });
    }
    if (headers.has("${CALLERS}")) {
      const [first, count] = headers.get("${CALLERS}").split(" ").map(Number);
      const statuses = {};
      for (let number = first; number < first + count; number++) {
        const address = [10, number >> 16, (number >> 8) & 255, number & 255].join(".");
        const one = new Request(request.url, { headers: { "CF-Connecting-IP": address } });
        const { status } = await limiter.fetch(one, env, context);
        statuses[status] = (statuses[status] ?? 0) + 1;
      }
      return Response.json(statuses);
    }
    if (headers.has("${TRAP}")) inside.arm(headers.get("${TRAP}"));
    return limiter.fetch(request, env, context);
  },
};
`;

/** The `modules` for `startWorkerd`. */
export const INSIDE = { "main.js": MAIN, "inside.js": PATCH, "unreachable.wasm": UNREACHABLE };

/** Puts the isolate's clock forward permanently. */
export async function advanceClock(limiter, ms) {
  await send(limiter.url, { headers: { [CLOCK]: String(ms) } });
}

/** Returns the size of the instance's linear memory in bytes. It grows and never shrinks. */
export async function memoryOf(limiter) {
  return (await send(limiter.url, { headers: { [CLOCK]: "0" } })).json().bytes;
}

/** Sends one request of each of `count` callers, from caller number `first` on. Returns the number of answers with each status. */
export async function callers(limiter, first, count, path = "/") {
  return (await send(limiter.url, { path, headers: { [CALLERS]: `${first} ${count}` } })).json();
}

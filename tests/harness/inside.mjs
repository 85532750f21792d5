/**
 * What no request shows of the isolate, and what no request can do to it: its clock put forward, a trap in the middle of a
 * request, callers by the thousand, the size of its memory. Modules of its own are served before the Worker's, which stays
 * as it was built: they exchange the functions that its instances import.
 */

import { send } from "./request.mjs";

/**
 * The header of a request in which to trap, as a Rust panic that aborts does: at the next call of an import that it names by
 * its beginning (`now`, `header`), or a later one (`now 2` is the second). `resume` is as a task is resumed with the answer to
 * what it asked, `resume 2` the second time.
 */
export const TRAP = "X-Inside-Trap";

/** The header of a request in place of those of many callers, made in the isolate itself: `FIRST COUNT`, numbers of addresses. */
const CALLERS = "X-Inside-Callers";

/** The header of a request that puts the clock forward by so many milliseconds. */
const CLOCK = "X-Inside-Clock";

/** `(module (func (export "trap") unreachable))`: the runtime compiles no bytes that a Worker brings along as data. */
const UNREACHABLE = Buffer.from("0061736d0100000001040160000003020100070801047472617000000a05010300000b", "hex");

/** Evaluated before the Worker's own module, so that its first instance is made with these imports as well. */
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
      // The clock is the first that is read then.
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

/** For `startWorkerd`. */
export const INSIDE = { "main.js": MAIN, "inside.js": PATCH, "unreachable.wasm": UNREACHABLE };

/** Puts the isolate's clock forward, for good. */
export async function pass(limiter, ms) {
  await send(limiter.url, { headers: { [CLOCK]: String(ms) } });
}

/** The bytes of the instance's linear memory. It grows and never shrinks. */
export async function memoryOf(limiter) {
  return (await send(limiter.url, { headers: { [CLOCK]: "0" } })).json().bytes;
}

/** One request each of so many callers, the first of that number; how many were answered with which status. */
export async function callers(limiter, first, count, path = "/") {
  return (await send(limiter.url, { path, headers: { [CALLERS]: `${first} ${count}` } })).json();
}

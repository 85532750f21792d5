/**
 * What Cloudflare calls: a plain handler. (worker-build's own entry makes an object of a class behind two proxies for each
 * request, at a tenth of the cost of a decision from memory.)
 */
import * as limiter from "./index.js";
import { onTrap } from "./microtasks.js";

// A panic leaves the instance's memory in no known state: the next request starts a new one.
let trapped = false;

function told(error) {
  if (!(error instanceof WebAssembly.RuntimeError)) return;
  console.error("Critical", error);
  trapped = true;
}
onTrap(told);
globalThis.addEventListener("error", (event) => told(event.error));

// Both are in an error's stack: the Wasm functions' and the ones that called them.
Error.stackTraceLimit = 100;

export default {
  async fetch(request, env, context) {
    if (trapped) {
      console.log("Reinitializing Wasm application");
      limiter.__wbg_reset_state();
      trapped = false;
    }
    try {
      return await limiter.fetch(request, env, context);
    } catch (error) {
      told(error);
      throw error;
    }
  },
};

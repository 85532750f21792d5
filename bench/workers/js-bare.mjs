/** A Worker in JavaScript that only answers or forwards, to measure what that costs. `rust-hello` is the same in Rust. */

import { forward } from "./answer.mjs";

export default {
  fetch(request, env) {
    return env.ORIGIN_URL ? forward(request, env) : new Response("Hello World!");
  },
};

/** What a Worker in JavaScript costs that does nothing but answer or forward: `rust-hello`, in JavaScript. */

import { forward } from "./answer.mjs";

export default {
  fetch(request, env) {
    return env.ORIGIN_URL ? forward(request, env) : new Response("Hello World!");
  },
};

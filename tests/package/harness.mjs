/** The built package as Node loads it, and helpers to serve and test it. */
import { once } from "node:events";
import { createServer } from "node:http";

export { LimiterError, createLimiter } from "../../dist/package/dist/default/index.js";
export { rateLimit } from "../../dist/package/dist/default/node.js";

/** Returns variables with a unique key prefix, because limiters with equal configurations share memory. */
let limiters = 0;
export const variables = (vars = {}) => ({ RATE_LIMIT_IP: "off", REDIS_KEY_PREFIX: `t${(limiters += 1)}:`, RATE_LIMIT_METRICS: "false", ...vars });

/** Starts a server on a free port of 127.0.0.1. `stop` ends it and its connections. */
export async function serve(listener, { listen = { port: 0, host: "127.0.0.1" }, make = createServer } = {}) {
  const server = make(listener);
  server.listen(listen);
  await once(server, "listening");
  const { port } = server.address();
  return {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections?.();
      await closed;
    },
  };
}

/** Asserts that a promise is rejected with this code, and returns the error. */
export async function rejects(promise, code) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    if (error.code !== code) throw error;
    return error;
  }
  throw new Error(`expected an error with the code ${code}, but the call returned ${JSON.stringify(value)}`);
}

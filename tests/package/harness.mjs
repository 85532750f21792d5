/** The built package, as Node takes it, and servers around it. */
import { once } from "node:events";
import { createServer } from "node:http";

export { LimiterError, createLimiter } from "../../dist/package/dist/default/index.js";
export { rateLimit } from "../../dist/package/dist/default/node.js";

/** A configuration like no other's: limiters of like configurations share memory. */
let limiters = 0;
export const variables = (vars = {}) => ({ RATE_LIMIT_IP: "off", REDIS_KEY_PREFIX: `t${(limiters += 1)}:`, RATE_LIMIT_METRICS: "false", ...vars });

/** A server on a free port of 127.0.0.1; `stop` ends it and its connections. */
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

/** That a promise is rejected with this code; the error. */
export async function rejects(promise, code) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    if (error.code !== code) throw error;
    return error;
  }
  throw new Error(`not rejected with ${code}: ${JSON.stringify(value)}`);
}

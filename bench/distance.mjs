/**
 * Simulates a distant Redis, in its own process: over REST (the stand-in), TCP and TLS. In each direction, bytes take half of the round
 * trip. A new connection's first bytes wait for one round trip more, as they would for TCP's handshake.
 */

import { fork } from "node:child_process";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { main } from "../scripts/command.mjs";
import { makeCertificates } from "../tests/harness/certificates.mjs";
import { freePort } from "../tests/upstash/free-port.mjs";
import { startRedis } from "../tests/upstash/redis-server.mjs";
import { startStandIn } from "../tests/upstash/stand-in.mjs";

/** @returns {Promise<{ports: {rest: number, tcp: number, tls: number}, token: string, authority: string, move: (ms: number) => Promise<Record<string, number>>, stop: () => Promise<void>}>} */
export async function startDistance() {
  const child = fork(fileURLToPath(import.meta.url), { env: { ...process.env, npm_lifecycle_event: "" } });
  const reply = async () => (await once(child, "message"))[0];
  const started = await reply();
  return {
    ...started,
    /** Sets the length of a round trip. Returns how many connections were opened to each port since the last call. */
    move(ms) {
      child.send(ms);
      return reply();
    },
    async stop() {
      const ended = once(child, "exit");
      child.disconnect();
      await ended;
    },
  };
}

async function serve() {
  const certificates = makeCertificates("IP:127.0.0.1");
  const tlsPort = await freePort();
  const redis = await startRedis({ args: certificates.redisArgs(tlsPort) });
  const standIn = await startStandIn({ redis });
  let [roundTrip, counts] = [0, {}];
  const targets = { rest: Number(new URL(standIn.url).port), tcp: redis.port, tls: tlsPort };
  const ports = {};
  for (const [name, port] of Object.entries(targets)) {
    const server = createServer({ noDelay: true }, (client) => {
      counts[name] = (counts[name] ?? 0) + 1;
      const far = connect({ port, host: "127.0.0.1", noDelay: true });
      const from = performance.now() + roundTrip;
      relay(client, far, () => Math.max(0, from - performance.now()) + roundTrip / 2);
      relay(far, client, () => roundTrip / 2);
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    ports[name] = server.address().port;
  }
  process.on("message", (ms) => {
    process.send(counts);
    [roundTrip, counts] = [ms, {}];
  });
  process.on("disconnect", async () => {
    await standIn.stop();
    await redis.stop();
    certificates.remove();
    process.exit();
  });
  process.send({ ports, token: standIn.token, authority: certificates.authority });
}

/** Sends the bytes of `from` and its end on to `to`, each after `wait()` ms. */
function relay(from, to, wait) {
  const later = (action) => {
    const ms = wait();
    if (ms === 0) action();
    else setTimeout(action, ms);
  };
  from.on("data", (bytes) => later(() => to.writable && to.write(bytes)));
  from.on("close", () => later(() => to.destroy()));
  from.on("error", () => {});
}

await main(import.meta.url, serve);

/** A TCP server before Redis, which records what comes, and answers in Redis's place if a test says so. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

/**
 * @param {number} port of Redis, on 127.0.0.1
 * @returns {Promise<TcpProxy>}
 *
 * @typedef {object} TcpProxy
 * @property {number} port
 * @property {Buffer[][]} connections what came on each, by the reads in which it came
 * @property {number} open connections that the client has not closed
 * @property {((client: import("node:net").Socket) => void) | undefined} answer answers in Redis's place, once something came
 * @property {number} pieceBytes the most of Redis's answers that is passed on at a time; 0: all
 * @property {() => Promise<void>} stop
 */
export async function startTcpProxy(port) {
  const sockets = new Set();
  const proxy = { connections: [], open: 0, answer: undefined, pieceBytes: 0, stop };
  const server = createServer({ noDelay: true }, (client) => {
    const received = [];
    proxy.connections.push(received);
    proxy.open += 1;
    keep(client);
    client.on("close", () => (proxy.open -= 1));
    client.on("data", (bytes) => received.push(bytes));
    if (proxy.answer) {
      client.once("data", () => proxy.answer(client));
      return;
    }
    const redis = keep(connect({ port, host: "127.0.0.1", noDelay: true }));
    client.on("data", (bytes) => redis.write(bytes));
    client.on("close", () => redis.destroy());
    redis.on("close", () => client.end());
    redis.on("data", (bytes) => {
      const size = proxy.pieceBytes || bytes.length;
      for (let at = 0; at < bytes.length; at += size) client.write(bytes.subarray(at, at + size));
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  proxy.port = server.address().port;
  return proxy;

  function keep(socket) {
    sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => sockets.delete(socket));
    return socket;
  }

  async function stop() {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  }
}

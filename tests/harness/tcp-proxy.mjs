/** A TCP proxy in front of Redis. It records what clients send, and a test can answer in place of Redis. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

/**
 * @param {number} port of Redis, on 127.0.0.1
 * @returns {Promise<TcpProxy>}
 *
 * @typedef {object} TcpProxy
 * @property {number} port
 * @property {Buffer[][]} connections for each connection, the data of each read
 * @property {number} open how many connections the client has not closed
 * @property {((client: import("node:net").Socket) => void) | undefined} answer answers in place of Redis after the client's first data
 * @property {number} pieceBytes how many bytes of an answer are passed on at a time; 0: all
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

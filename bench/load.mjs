/**
 * The load generator. Each connection sends its next request when the last one is answered. It uses bare sockets and requests
 * made in advance, because it shares the machine's cores with what is measured.
 */

import { once } from "node:events";
import { connect } from "node:net";
import { quantile } from "./statistics.mjs";

const END_OF_HEAD = "\r\n\r\n";
const LENGTH = /\r\ncontent-length: (\d+)\r\n/i;

/** One request for each address, as bytes. */
export function messages(addresses) {
  return addresses.map((address) => Buffer.from(`GET / HTTP/1.1\r\nHost: localhost\r\nCF-Connecting-IP: ${address}\r\n\r\n`));
}

/**
 * @param {object} load
 * @param {number} load.port
 * @param {Buffer[]} load.messages sent in turn
 * @param {number} load.requests
 * @param {number} load.connections
 * @param {{status: number, has?: string[], lacks?: string[]}} load.expected what every answer must be. Another answer rejects, and is in the error's message
 * @param {() => void} [load.begin] called when all connections are open
 * @returns {Promise<{seconds: number, p50: number, p99: number, p999: number}>} latencies in milliseconds
 */
export async function load({ port, messages, requests, connections, expected, begin = () => {} }) {
  const sockets = await Promise.all(Array.from({ length: Math.min(connections, requests) }, () => open(port)));
  const latencies = new Float64Array(requests);
  let [sent, answered] = [0, 0];
  try {
    begin();
    const started = performance.now();
    await Promise.all(sockets.map((socket) => new Promise((resolve, reject) => {
      let [text, at] = ["", 0];
      const next = () => {
        if (sent === requests) return resolve();
        const message = messages[sent++ % messages.length];
        at = performance.now();
        socket.write(message);
      };
      socket.on("data", (chunk) => {
        text += chunk.latin1Slice();
        const head = text.indexOf(END_OF_HEAD);
        if (head < 0) return;
        const length = LENGTH.exec(text)?.[1];
        if (length === undefined) return reject(new Error(`an answer without a length:\n${text}`));
        if (text.length < head + END_OF_HEAD.length + Number(length)) return;
        latencies[answered++] = performance.now() - at;
        if (!isAsExpected(text, expected)) return reject(new Error(`expected ${JSON.stringify(expected)}, got:\n${text}`));
        text = "";
        next();
      });
      socket.on("error", reject);
      socket.on("close", () => reject(new Error(`the Worker closed the connection:\n${text}`)));
      next();
    })));
    const seconds = (performance.now() - started) / 1000;
    latencies.sort();
    return { seconds, p50: quantile(latencies, 0.5), p99: quantile(latencies, 0.99), p999: quantile(latencies, 0.999) };
  } finally {
    for (const socket of sockets) socket.destroy();
  }
}

async function open(port) {
  const socket = connect({ host: "127.0.0.1", port, noDelay: true });
  await once(socket, "connect");
  return socket;
}

function isAsExpected(text, { status, has = [], lacks = [] }) {
  return text.startsWith(`HTTP/1.1 ${status} `) && has.every((part) => text.includes(part)) && !lacks.some((part) => text.includes(part));
}

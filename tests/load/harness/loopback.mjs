/**
 * Loaded into Artillery's process, and into its thread with the virtual users, before anything else: they reach this machine's
 * loopback and nothing beyond, be that a mistaken target, a proxy or what a dependency would report to somebody.
 */

import net from "node:net";

const LOOPBACK = ["127.0.0.1", "::1", "localhost"];

const { connect } = net.Socket.prototype;

net.Socket.prototype.connect = function guarded(...given) {
  // As node itself calls it: `[[options, callback]]`; as others may: `options`, or a port and a host.
  const [first, second] = Array.isArray(given[0]) ? given[0] : given;
  const options = typeof first === "object" ? first : { port: first, host: typeof second === "string" ? second : undefined };
  const host = options.host ?? "localhost";
  if (options.path === undefined && !LOOPBACK.includes(host)) {
    throw Object.assign(new Error(`a load test reaches loopback alone, not ${host}`), { code: "ENOTLOOPBACK" });
  }
  return connect.apply(this, given);
};

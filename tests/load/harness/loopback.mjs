/**
 * Loaded first into Artillery's process and into its thread with the virtual users. It refuses every connection that does not go to
 * this machine's loopback: to a mistaken target, to a proxy, or for a dependency's telemetry.
 */

import net from "node:net";

const LOOPBACK = ["127.0.0.1", "::1", "localhost"];

const { connect } = net.Socket.prototype;

net.Socket.prototype.connect = function guarded(...args) {
  // Node itself passes `[[options, callback]]`. Other callers pass `options`, or a port and a host.
  const [first, second] = Array.isArray(args[0]) ? args[0] : args;
  const options = typeof first === "object" ? first : { port: first, host: typeof second === "string" ? second : undefined };
  const host = options.host ?? "localhost";
  if (options.path === undefined && !LOOPBACK.includes(host)) {
    throw Object.assign(new Error(`load tests may only connect to loopback, not to ${host}`), { code: "ENOTLOOPBACK" });
  }
  return connect.apply(this, args);
};

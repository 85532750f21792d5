/**
 * The application's own Redis client.
 *
 * @typedef {object} Client
 * @property {number} number which one, from 1 on
 * @property {boolean} isCluster whether it is connected to a cluster
 * @property {import("./rest.js").Transport} transport
 */

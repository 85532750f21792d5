/** The limiter as a complete Cloudflare Worker in front of an application: `export { default } from "edge-limiter/worker"`. */
declare const worker: {
  fetch(request: Request, env: unknown, context: { waitUntil(promise: Promise<unknown>): void }): Promise<Response>;
  scheduled(event: unknown, env: unknown, context: { waitUntil(promise: Promise<unknown>): void }): void;
};
export default worker;

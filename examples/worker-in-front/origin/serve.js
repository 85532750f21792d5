/** Does on this machine what Vercel does with these files: runs the middleware, then the function for the path. */
import { createServer } from "node:http";
import middleware from "./middleware.js";

const routes = {
  "/api/hello": await import("./api/hello.js"),
  "/api/login": await import("./api/login.js"),
};

createServer((incoming, outgoing) => {
  answer(incoming, outgoing).catch((error) => {
    console.error(error);
    if (!outgoing.headersSent) outgoing.writeHead(400);
    outgoing.end();
  });
}).listen(process.env.PORT, "127.0.0.1");

async function answer({ method, url, headers }, outgoing) {
  const request = new Request(`http://localhost${url}`, { method, headers: Object.entries(headers).flatMap(([name, value]) => [value].flat().map((one) => [name, one])) });
  const response = middleware(request) ?? routes[new URL(request.url).pathname]?.[method]?.(request) ?? new Response("Not found", { status: 404 });
  const { status, headers: answered, body } = await response;
  outgoing.writeHead(status, Object.fromEntries(answered));
  for await (const chunk of body ?? []) outgoing.write(chunk);
  outgoing.end();
}

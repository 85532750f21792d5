/** What Vercel does with these files, on this machine: the middleware, then the function of the path. */
import { createServer } from "node:http";
import middleware from "./middleware.js";

const routes = {
  "/api/hello": await import("./api/hello.js"),
  "/api/login": await import("./api/login.js"),
};

createServer(async (incoming, outgoing) => {
  const { method, url, headers } = incoming;
  const request = new Request(new URL(url, "http://localhost"), { method, headers: Object.entries(headers).flatMap(([name, value]) => [value].flat().map((one) => [name, one])) });
  const answer = middleware(request) ?? routes[new URL(request.url).pathname]?.[method]?.(request) ?? new Response("Not found", { status: 404 });
  const { status, headers: answered, body } = await answer;
  outgoing.writeHead(status, Object.fromEntries(answered));
  for await (const chunk of body ?? []) outgoing.write(chunk);
  outgoing.end();
}).listen(process.env.PORT, "127.0.0.1");

/** Finds a free port of 127.0.0.1, for programs that cannot choose one themselves. Another program can take it before they do. */

import { once } from "node:events";
import { createServer } from "node:net";

export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

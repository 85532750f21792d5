/**
 * The ADMIN_TOKEN that `npm start` makes for one run, if the user has set none. It is stored for `npm run try` in a file that only this user
 * can read. The file is in wrangler's folder for local state, which git ignores. No deployment reads it.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { root } from "./command.mjs";

/** Random bytes. In base64 they are 32 characters. */
const TOKEN_BYTES = 24;

const fileOf = (port) => path.join(root, ".wrangler", `edge-limiter-token-${port}`);

export const makeToken = () => randomBytes(TOKEN_BYTES).toString("base64url");

/** Stores the token of the limiter on a port. @returns {() => void} removes it */
export function storeToken(port, token) {
  const file = fileOf(port);
  mkdirSync(path.dirname(file), { recursive: true });
  // Removed first, because an existing file would keep its own mode.
  rmSync(file, { force: true });
  writeFileSync(file, token, { mode: 0o600, flag: "wx" });
  return () => rmSync(file, { force: true });
}

/** The stored token of the limiter on a port, or `undefined`. */
export function storedToken(port) {
  try {
    return readFileSync(fileOf(port), "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

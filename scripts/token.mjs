/**
 * The ADMIN_TOKEN of a limiter that `npm start` serves: the user's own, or one that is made for the run. The latter is left
 * for `npm run try` in a file that only this user can read, in wrangler's folder for local state, which git ignores. No
 * deployment reads it.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { root } from "./command.mjs";

/** Bytes of chance: 32 characters. */
const BYTES = 24;

const fileOf = (port) => path.join(root, ".wrangler", `edge-limiter-token-${port}`);

export const makeToken = () => randomBytes(BYTES).toString("base64url");

/** Leaves the token of the limiter on that port. @returns {() => void} takes it away */
export function leaveToken(port, token) {
  const file = fileOf(port);
  mkdirSync(path.dirname(file), { recursive: true });
  // A file from before would keep its own mode.
  rmSync(file, { force: true });
  writeFileSync(file, token, { mode: 0o600, flag: "wx" });
  return () => rmSync(file, { force: true });
}

/** The token that was left; `undefined`: none was. */
export function leftToken(port) {
  try {
    return readFileSync(fileOf(port), "utf8");
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}

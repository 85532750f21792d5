/** What the scenarios' YAML names: Artillery takes one module of functions. */

// Artillery's virtual users are in a thread of their own, where its process's `--import` does not reach.
import "./harness/loopback.mjs";

export { anotherNextDoor, anotherOfItsNetwork, anotherOfTheRange, newAttacker, newCaller } from "./hooks/callers.mjs";
export { count } from "./hooks/count.mjs";
export { nextLimiter } from "./hooks/limiters.mjs";
export { bigBody, hugeHeader, longPath, manyHeaders } from "./hooks/oversized.mjs";
export { spell } from "./hooks/paths.mjs";
export { doubleAddress, spoof } from "./hooks/spoofing.mjs";
export { forItsTurns, untilTheEnd } from "./hooks/time.mjs";

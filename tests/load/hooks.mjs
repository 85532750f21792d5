/** What the scenarios' YAML names: Artillery takes one module of functions. */

// Artillery's virtual users are in a thread of their own, where its process's `--import` does not reach.
import "./harness/loopback.mjs";

export { anotherNextDoor, anotherOfItsNetwork, anotherOfTheRange, newAttacker, newCaller } from "./hooks/callers.mjs";
export { count } from "./hooks/count.mjs";
export { nextLimiter } from "./hooks/limiters.mjs";
export { forItsTurns, untilTheEnd } from "./hooks/time.mjs";

/** All functions that the scenarios' YAML files name, because Artillery takes only one module. */

// Artillery runs its virtual users in a thread, to which `--import` of its process does not apply.
import "./harness/loopback.mjs";

export { anotherNextDoor, anotherOfItsNetwork, anotherOfTheRange, newAttacker, newCaller } from "./hooks/callers.mjs";
export { count } from "./hooks/count.mjs";
export { nextLimiter } from "./hooks/limiters.mjs";
export { bigBody, hugeHeader, longPath, manyHeaders } from "./hooks/oversized.mjs";
export { spell } from "./hooks/paths.mjs";
export { doubleAddress, spoof } from "./hooks/spoofing.mjs";
export { forItsTurns, untilTheEnd } from "./hooks/time.mjs";

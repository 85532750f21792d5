/**
 * In place of the platform's `queueMicrotask`, by which Rust's futures go on (esbuild's `inject`): a promise's continuation
 * runs at the same moment, and costs V8 next to nothing where the platform's own function enters and leaves the request each
 * time.
 */
let trap = () => {};

/** Who is told what a task throws. */
export function onTrap(handler) {
  trap = handler;
}

export function queueMicrotask(task) {
  // Made here, so that it is the request's own.
  Promise.resolve().then(() => {
    try {
      task();
    } catch (error) {
      trap(error);
      throw error;
    }
  });
}

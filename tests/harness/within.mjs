/**
 * A bounded wait. Tests wait for events, not for time to pass, and an event that never happens must fail with its name.
 */

/** Enough on a busy machine for anything that usually takes milliseconds. */
const DEFAULT_MS = 10_000;

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {string} what names the awaited event in the error message
 * @param {number} [ms]
 * @returns {Promise<T>}
 */
export function within(promise, what, ms = DEFAULT_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`timed out after ${ms} ms waiting for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

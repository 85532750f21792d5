/**
 * A bounded wait: tests wait for events, never for time to pass, and what never comes must fail by name.
 */

/** For what takes milliseconds, on a busy machine. */
const LONGEST_MS = 10_000;

/**
 * @template T
 * @param {Promise<T>} promise
 * @param {string} what what is waited for, for the failure
 * @param {number} [ms]
 * @returns {Promise<T>}
 */
export function within(promise, what, ms = LONGEST_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms in vain for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

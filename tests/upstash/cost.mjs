/** The cost of work at Upstash. */

/**
 * Counts the commands billed and the HTTP requests received while `work` runs.
 *
 * @param {{billed: () => Promise<number>, requests: () => {count: number}}} standIn
 * @param {() => Promise<unknown>} work
 * @returns {Promise<{billed: number, requests: number}>}
 */
export async function cost(standIn, work) {
  const before = { billed: await standIn.billed(), requests: standIn.requests().count };
  await work();
  return { billed: (await standIn.billed()) - before.billed, requests: standIn.requests().count - before.requests };
}

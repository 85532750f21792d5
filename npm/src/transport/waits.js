/** Waiting until a client is connected. */

/** What clients are waited for, by all calls together. */
const waits = new WeakMap();

/** One that does not end in time is waited for anew by later calls. */
export function once(client, wait, timeout) {
  if (!waits.has(client)) {
    const end = () => {
      clearTimeout(timer);
      if (waits.get(client) === waiting) waits.delete(client);
    };
    const timer = setTimeout(end, timeout);
    const waiting = wait().finally(end);
    // Of a wait that nobody awaits any more.
    waiting.catch(() => {});
    waits.set(client, waiting);
  }
  return waits.get(client);
}

/** Resolves with an event; rejects with another one, or after a time. */
export function event(emitter, wanted, others, timeout) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, timeout, new Error(`no ${wanted} in time`));
    const over = (end) => () => {
      clearTimeout(timer);
      emitter.off(wanted, good);
      for (const other of others) emitter.off(other, bad);
      end();
    };
    const good = over(resolve);
    const bad = over(() => reject(new Error(`not ${wanted}`)));
    emitter.once(wanted, good);
    for (const other of others) emitter.once(other, bad);
  });
}

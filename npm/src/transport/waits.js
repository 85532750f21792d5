/** Waiting until a client is connected. */

/** The wait for each client, which all calls share. */
const waits = new WeakMap();

/** Starts a wait for a client, or joins the one under way. A wait that takes longer than `timeout` ms is not joined: the next call starts another. */
export function waitOnce(client, wait, timeout) {
  if (!waits.has(client)) {
    const end = () => {
      clearTimeout(timer);
      if (waits.get(client) === waiting) waits.delete(client);
    };
    const timer = setTimeout(end, timeout);
    const waiting = wait().finally(end);
    // It may reject when no call awaits it any more.
    waiting.catch(() => {});
    waits.set(client, waiting);
  }
  return waits.get(client);
}

/** Resolves when the emitter emits `wanted`. Rejects when it emits one of `others` first, or after `timeout` ms. */
export function waitForEvent(emitter, wanted, others, timeout) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, timeout, new Error(`The Redis client did not emit "${wanted}" within ${timeout} ms.`));
    const ending = (end) => () => {
      clearTimeout(timer);
      emitter.off(wanted, onWanted);
      for (const other of others) emitter.off(other, onOther);
      end();
    };
    const onWanted = ending(resolve);
    const onOther = ending(() => reject(new Error(`The Redis client failed or was closed before it emitted "${wanted}".`)));
    emitter.once(wanted, onWanted);
    for (const other of others) emitter.once(other, onOther);
  });
}

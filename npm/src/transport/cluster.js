/** Commands of a cluster that are each node's own. */

/** Figures of `INFO` that are those of all masters together. */
const SUMMED = [
  "used_memory", "maxmemory", "connected_clients", "total_commands_processed", "keyspace_hits", "keyspace_misses", "evicted_keys", "expired_keys",
  "connected_slaves",
];

/**
 * Runs a command in a cluster.
 *
 * @param {string[]} words
 * @param {(words: string[], key: string | undefined) => Promise<unknown>} run where its first key is
 * @param {() => Promise<((words: string[]) => Promise<unknown>)[]>} masters how each master runs one, in an order that stays
 */
export async function inCluster(words, run, masters) {
  switch (words[0]) {
    case "SCAN": return scan(words, await masters());
    case "INFO": return together(await Promise.all((await masters()).map((master) => master(words))));
    case "EVAL":
    case "EVALSHA": return run(words, words[3]);
    default: return run(words, words[1]);
  }
}

/** One master after the other: the cursor is the master's own, times their number, plus the master's place. */
async function scan([name, cursor, ...options], masters) {
  const count = BigInt(masters.length);
  const place = BigInt(cursor) % count;
  const [next, keys] = await masters[Number(place)]([name, String(BigInt(cursor) / count), ...options]);
  const isOver = String(next) === "0";
  if (!isOver) return [String(BigInt(String(next)) * count + place), keys];
  return [place + 1n < count ? String(place + 1n) : "0", keys];
}

function together(texts) {
  const parts = texts.map(String);
  return SUMMED.reduce((text, name) => {
    const field = new RegExp(`^${name}:(\\d+)`, "m");
    const sum = parts.reduce((all, part) => all + Number(field.exec(part)?.[1] ?? 0), 0);
    return text.replace(field, `${name}:${sum}`);
  }, parts[0]);
}

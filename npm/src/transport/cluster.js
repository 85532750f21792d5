/** Commands in a cluster. `SCAN` and `INFO` concern one node only, so they are sent to every master. */

/** Figures of `INFO` that are added up over all masters. All others are those of the first master. */
const SUMMED = [
  "used_memory", "maxmemory", "connected_clients", "total_commands_processed", "keyspace_hits", "keyspace_misses", "evicted_keys", "expired_keys",
  "connected_slaves",
];

/**
 * Runs a command in a cluster.
 *
 * @param {string[]} words
 * @param {(words: string[], key: string | undefined) => Promise<unknown>} run runs a command on the node of its first key
 * @param {() => Promise<((words: string[]) => Promise<unknown>)[]>} masters a function for each master that runs a command there, always in the same order
 */
export async function inCluster(words, run, masters) {
  switch (words[0]) {
    case "SCAN": return scan(words, await masters());
    case "INFO": return sumInfo(await Promise.all((await masters()).map((master) => master(words))));
    case "EVAL":
    case "EVALSHA": return run(words, words[3]);
    default: return run(words, words[1]);
  }
}

/** Scans one master after the other. The cursor is the master's own cursor, times the number of masters, plus the master's place. */
async function scan([name, cursor, ...options], masters) {
  const count = BigInt(masters.length);
  const place = BigInt(cursor) % count;
  const [next, keys] = await masters[Number(place)]([name, String(BigInt(cursor) / count), ...options]);
  const isMasterDone = String(next) === "0";
  if (!isMasterDone) return [String(BigInt(String(next)) * count + place), keys];
  return [place + 1n < count ? String(place + 1n) : "0", keys];
}

function sumInfo(texts) {
  const parts = texts.map(String);
  return SUMMED.reduce((text, name) => {
    const field = new RegExp(`^${name}:(\\d+)`, "m");
    const sum = parts.reduce((all, part) => all + Number(field.exec(part)?.[1] ?? 0), 0);
    return text.replace(field, `${name}:${sum}`);
  }, parts[0]);
}

/** Reads Redis after a run. Keys are given without their prefix. */

import { PREFIX, consumed } from "../../harness/limited.mjs";

export function reader(client) {
  const keys = async (pattern) => (await client.keys(PREFIX + pattern)).map((key) => key.slice(PREFIX.length));
  /** Returns the keys of a policy's quotas, without its blocks. */
  const quotas = async (policy) => (await keys(`${policy}:*`)).filter((key) => !key.endsWith(":blocked"));
  return {
    keys,
    /** Returns the units consumed of one quota. A quota without a state has none. */
    consumed: async (key) => ((await client.exists(PREFIX + key)) ? consumed(client, key) : 0),
    /** Returns the units that all callers of a policy have consumed. */
    async total(policy) {
      const each = await Promise.all((await quotas(policy)).map((key) => consumed(client, key)));
      return each.reduce((sum, units) => sum + units, 0);
    },
    /** Counts the callers that have a quota of a policy. */
    callers: async (policy) => (await quotas(policy)).length,
    /** Returns the value of a counter. */
    number: async (key) => Number(await client.get(PREFIX + key)),
    secondsLeft: async (key) => (await client.pTTL(PREFIX + key)) / 1000,
  };
}

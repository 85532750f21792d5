/** What Redis holds after a run, by keys without their prefix. */

import { PREFIX, consumed } from "../../harness/limited.mjs";

export function reader(client) {
  const keys = async (pattern) => (await client.keys(PREFIX + pattern)).map((key) => key.slice(PREFIX.length));
  /** The quotas of a policy, without its blocks. */
  const quotas = async (policy) => (await keys(`${policy}:*`)).filter((key) => !key.endsWith(":blocked"));
  return {
    keys,
    /** What one quota has consumed; 0 where it has no state. */
    consumed: async (key) => ((await client.exists(PREFIX + key)) ? consumed(client, key) : 0),
    /** What all callers of a policy have consumed. */
    async total(policy) {
      const each = await Promise.all((await quotas(policy)).map((key) => consumed(client, key)));
      return each.reduce((sum, units) => sum + units, 0);
    },
    /** How many callers a policy knows. */
    callers: async (policy) => (await quotas(policy)).length,
    /** What a counter says. */
    number: async (key) => Number(await client.get(PREFIX + key)),
    secondsLeft: async (key) => (await client.pTTL(PREFIX + key)) / 1000,
  };
}

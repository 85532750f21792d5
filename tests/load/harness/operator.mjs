/** An operator's calls to one of the limiters. */

import { setTimeout as delay } from "node:timers/promises";
import { Failure } from "../../../scripts/command.mjs";
import { ADMIN_TOKEN } from "../../harness/control.mjs";
import { send } from "../../harness/request.mjs";
import { OPERATOR } from "../limits.mjs";

/** Changes take effect in other isolates within ten seconds, and records are written some seconds after the event. The rest is for a busy machine. */
const TIMEOUT_MS = 20_000;

const PAUSE_MS = 100;

export function operatorOf(limiter) {
  async function call(method, path, json) {
    const answer = await send(limiter.url, {
      method, path: `/_limiter/${path}`, body: json && JSON.stringify(json),
      headers: { "CF-Connecting-IP": OPERATOR, Authorization: `Bearer ${ADMIN_TOKEN}` },
    });
    if (answer.status !== 200) throw new Failure(`${method} ${path}: ${answer.status} ${answer.text()}`);
    return answer.json();
  }

  /** Yields the pages of a list. */
  async function* pages(path) {
    for (let cursor = ""; cursor !== null; ) {
      const page = await call("GET", `${path}?limit=1000${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
      yield page;
      ({ cursor } = page);
    }
  }

  return {
    eventually,
    block: (target, json) => call("PUT", `blocked/${encodeURIComponent(target)}`, json),
    lift: async (target) => (await call("DELETE", `blocked/${encodeURIComponent(target)}`)).lifted,
    async blocked() {
      const all = [];
      for await (const { blocked } of pages("blocked")) all.push(...blocked);
      return all;
    },
    /** Counts the requests that the event log records as denied or as refused for a wrong token, and those that it reports as left out. */
    async recorded() {
      let sum = 0;
      let leftOut = 0;
      for await (const { events, left_out } of pages("events")) {
        leftOut = left_out;
        for (const { kind, count } of events) if (kind === "denied" || kind === "refused") sum += count;
      }
      return sum + leftOut;
    },
  };
}

/** Repeats `look` until `isEnough` accepts its result or the time is over. Returns the last result. */
export async function eventually(look, isEnough) {
  const end = performance.now() + TIMEOUT_MS;
  for (;;) {
    const found = await look();
    if (isEnough(found) || performance.now() > end) return found;
    await delay(PAUSE_MS);
  }
}

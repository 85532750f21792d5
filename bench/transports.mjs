/** Compares a Worker's transports to one Redis, near and far: REST, TCP and TLS. */

import { startWorkerd } from "../tests/harness/workerd.mjs";
import { say } from "../scripts/command.mjs";
import { startDistance } from "./distance.mjs";
import { load, messages } from "./load.mjs";
import { cpuOf } from "./process.mjs";
import { number, table } from "./report.mjs";
import { shuffled, spread } from "./statistics.mjs";

/** Round trips in ms, and the share of the requests that are sent at each, because distant ones take long. */
const DISTANCES = [[0, 1], [20, 1 / 4], [100, 1 / 10]];

const WARM_UP_ROUNDS = 3;
const CALLERS = Array.from({ length: 1000 }, (_, caller) => `10.0.${caller >> 8}.${caller & 255}`);
const EXPECTED = { status: 200, has: ["X-RateLimit-Remaining: "], lacks: ["X-RateLimit-Store: memory"] };
const WAYS = { rest: "REST, connections kept", tcp: "TCP", tls: "TLS" };

/**
 * @param {{rounds: number, requests: number, connections: number, figures: object}} options
 * @returns {Promise<string>} a section of Markdown
 */
export async function transports({ rounds, requests, connections, figures }) {
  const distance = await startDistance();
  const { ports, token, authority } = distance;
  const urls = {
    rest: { UPSTASH_REDIS_REST_URL: `http://127.0.0.1:${ports.rest}`, UPSTASH_REDIS_REST_TOKEN: token },
    tcp: { REDIS_URL: `redis://127.0.0.1:${ports.tcp}` },
    tls: { REDIS_URL: `rediss://127.0.0.1:${ports.tls}` },
  };
  const servers = {};
  const samples = {};
  try {
    for (const way of Object.keys(WAYS)) {
      const vars = { ...urls[way], REDIS_TIMEOUT: "30000", RATE_LIMIT_GENERAL: "100000,60", RATE_LIMIT_IP: "off", RATE_LIMIT_METRICS: "false" };
      servers[way] = await startWorkerd({ vars, certificates: [authority] });
    }
    const stretch = async (way, count) => {
      const server = servers[way];
      let cpu;
      const begin = () => (cpu = cpuOf(server.pid));
      const sent = { port: server.port, messages: messages(CALLERS), connections };
      // The first requests may open connections, so they are not measured.
      await load({ ...sent, requests: connections, expected: { status: 200 } });
      const latencies = await load({ ...sent, requests: count, expected: EXPECTED, begin });
      return { cpu: (cpuOf(server.pid) - cpu) / count, ...latencies };
    };
    for (const way of Object.keys(WAYS)) await stretch(way, WARM_UP_ROUNDS * requests);
    for (const [ms, share] of DISTANCES) {
      const count = Math.ceil(requests * share);
      await distance.move(ms);
      const names = Object.keys(WAYS);
      samples[ms] = Object.fromEntries(names.map((way) => [way, []]));
      for (let round = 1; round <= rounds; round++) {
        say(`${ms} ms: round ${round} of ${rounds}`);
        for (const way of shuffled(names)) samples[ms][way].push(await stretch(way, count));
      }
    }
    figures.transports = samples;
    return section({ samples, rounds, requests, connections });
  } finally {
    await Promise.all(Object.values(servers).map((server) => server.stop()));
    await distance.stop();
  }
}

function section({ samples, rounds, requests, connections }) {
  const of = (ms, way, figure) => spread(samples[ms][way].map((sample) => sample[figure]));
  const withRange = ({ median, low, high }) => `${number(median)} (${number(low)}–${number(high)})`;
  const rows = DISTANCES.flatMap(([ms]) => Object.entries(WAYS).map(([way, title]) => [
    title, String(ms), withRange(of(ms, way, "cpu")), ...["p50", "p99"].map((figure) => number(of(ms, way, figure).median)),
  ]));
  return [
    "## A Worker's ways to Redis",
    "",
    `edge-limiter in its own workerd process, on one Redis: over the stand-in's REST, TCP and TLS. In each of ${rounds} rounds every row gets up to ${requests}`,
    `requests over ${connections} connections, one quota each. A proxy delays bytes by half of the round trip each way, and a new connection's first bytes by a`,
    "round trip more, as TCP's handshake does; TLS's own round trips come on top. CPU is that of the workerd process per request, medians with quartiles.",
    "The stand-in has no TLS. A REST connection that is kept open would need its handshake only once.",
    "",
    table(["", "round trip, ms", "CPU, µs", "p50, ms", "p99, ms"], rows),
  ].join("\n");
}

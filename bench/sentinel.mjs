/**
 * Measures what a failover behind Sentinel loses: units that the old master has acknowledged and not yet sent to the replica that takes
 * over. The policy denies while Redis is down, so that only units acknowledged by Redis are counted.
 */
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { say } from "../scripts/command.mjs";
import { makePackage } from "../scripts/package.mjs";
import { setup } from "../scripts/setup.mjs";
import { MASTER, startSentinels } from "../tests/harness/sentinel.mjs";
import { within } from "../tests/harness/within.mjs";
import { number, table } from "./report.mjs";
import { spread } from "./statistics.mjs";

const CALLERS = 50;
const LIMIT = 10_000_000;
const WINDOW_S = 3600;

/** How long callers send requests before the master is killed or the link is cut. */
const LOAD_MS = 2000;

/** In the cases with a cut link: how long it is cut before the master is killed. Nothing passes in either direction. */
const CUT_MS = 5000;

/** In the case with distant replicas: how long bytes from the master take. */
const DISTANCE_MS = 100;

const MIN_REPLICAS = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"];

const CASES = {
  "replicas next to it": { args: [] },
  [`replicas ${DISTANCE_MS} ms away`]: { args: [], distance: DISTANCE_MS },
  [`the link to both cut ${CUT_MS / 1000} s before`]: { args: [], distance: 0, isCut: true },
  "the same, with `min-replicas-to-write 1` and `min-replicas-max-lag 1`": { args: MIN_REPLICAS, distance: 0, isCut: true },
};

/**
 * @param {{rounds: number, figures: object}} options
 * @returns {Promise<string>} a section of Markdown
 */
export async function sentinel({ rounds, figures }) {
  await setup({ package: true });
  await makePackage();
  return measure({ rounds, figures });
}

export async function measure({ rounds, figures }) {
  const { createLimiter } = await import("../dist/package/dist/default/index.js");
  const samples = Object.fromEntries(Object.keys(CASES).map((name) => [name, []]));
  for (let round = 1; round <= rounds; round += 1) {
    for (const name of Object.keys(CASES)) {
      const sample = await failover(createLimiter, CASES[name]);
      say(`round ${round} of ${rounds}, ${name}: ${JSON.stringify(sample)}`);
      samples[name].push(sample);
    }
  }
  figures.sentinel = samples;
  return section(samples, rounds);
}

async function failover(createLimiter, { args, distance, isCut = false }) {
  const link = distance === undefined ? undefined : new Link(distance);
  // The failover timeout is longer than a round, so that replicas keep following the master through the link for the whole round.
  const behind = await startSentinels({ args, failoverTimeoutMs: 180_000, link: link && ((port) => link.to(port)) });
  const limiter = createLimiter({
    env: {
      REDIS_SENTINEL: "true", REDIS_SENTINEL_NAME: MASTER, REDIS_SENTINEL_NODES: behind.nodes, REDIS_KEY_PREFIX: `bench${behind.nodes}:`, REDIS_TIMEOUT: "500",
      RATE_LIMIT_GENERAL: `${LIMIT},${WINDOW_S}`, RATE_LIMIT_IP: "off", RATE_LIMIT_POLICIES: '{"general":{"on_store_failure":"deny"}}', RATE_LIMIT_METRICS: "false",
    },
  });
  try {
    const old = await behind.master();
    while (!(await isCounted(limiter, "192.0.2.1"))) await sleep(10);
    const { rate, stop } = load(limiter);
    await sleep(LOAD_MS);
    const acknowledgedPerSecond = rate();
    if (isCut) {
      link.cut();
      await sleep(CUT_MS);
    }
    link?.drop();
    await old.kill();
    const killedAt = Date.now();
    const acknowledged = await stop();
    await behind.promoted(old);
    const promotedAfter = Date.now() - killedAt;
    await within(answers(limiter), "Redis to answer again", 60_000);
    let counted = 0;
    for (let i = 0; i < CALLERS; i += 1) counted += (await limiter.usage("general", caller(i))).used;
    // Units that were not acknowledged may be counted too, so the difference can be negative.
    const lost = Math.max(0, acknowledged - counted);
    return { rate: acknowledgedPerSecond, acknowledged, lost, seconds: lost / acknowledgedPerSecond, promotedAfter };
  } finally {
    await limiter.close();
    await behind.stop();
    link?.stop();
  }
}

/** A proxy between a master and its replicas, which delays the master's bytes by `ms`. */
class Link {
  #sockets = new Set();
  #isOpen = true;

  constructor(ms) {
    this.ms = ms;
  }

  /** Opens a port that leads to another port. Returns its number. */
  async to(port) {
    this.server = createServer((replica) => {
      const master = connect(port, "127.0.0.1");
      for (const socket of [replica, master]) this.#sockets.add(socket.on("error", () => {}));
      replica.on("data", (bytes) => this.#isOpen && master.write(bytes)).on("close", () => master.destroy());
      master.on("close", () => replica.destroy());
      master.on("data", (bytes) => {
        const arrive = () => this.#isOpen && replica.write(bytes);
        if (this.ms > 0) setTimeout(arrive, this.ms);
        else arrive();
      });
    });
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return this.server.address().port;
  }

  /** Stops all bytes in both directions, including those on their way to replicas. */
  cut() {
    this.#isOpen = false;
  }

  /** Closes all connections. */
  drop() {
    this.cut();
    for (const socket of this.#sockets) socket.destroy();
  }

  stop() {
    this.drop();
    this.server.close();
  }
}

async function isCounted(limiter, address) {
  const { allowed, degraded } = await limiter.limit(new Request("http://127.0.0.1/"), { address });
  return allowed && !degraded;
}

const caller = (i) => `198.51.100.${i}`;

/** Lets all callers send requests without a break. `rate` returns the acknowledged units per second; `stop` ends the load and returns their number. */
function load(limiter) {
  let isRunning = true;
  let acknowledged = 0;
  const began = Date.now();
  const ask = async (address) => {
    while (isRunning) {
      if (await isCounted(limiter, address)) acknowledged += 1;
      // Without Redis the answer comes from memory at once. The pause lets other tasks run.
      else await sleep(1);
    }
  };
  const callers = Array.from({ length: CALLERS }, (_, i) => ask(caller(i)));
  return {
    rate: () => (1000 * acknowledged) / (Date.now() - began),
    async stop() {
      isRunning = false;
      await Promise.all(callers);
      return acknowledged;
    },
  };
}

/** Waits until Redis decides again. Reading the health charges nothing. */
async function answers(limiter) {
  while ((await limiter.health()).status !== "ok") await sleep(10);
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function section(samples, rounds) {
  const of = (name, figure, scale = 1) => {
    const { median, low, high } = spread(samples[name].map((sample) => sample[figure] * scale));
    return `${number(median)} (${number(low)}–${number(high)})`;
  };
  return [
    "## Failover behind Sentinel",
    "",
    `The package in Node ${process.versions.node} by \`REDIS_SENTINEL\`: three Sentinels (\`down-after-milliseconds 1000\`), a master and two replicas, all on this machine.`,
    `${CALLERS} callers send requests without a break, and the master is killed. Lost units are those that the old master has acknowledged and the new one has not counted.`,
    `Medians of ${rounds} rounds with quartiles.`,
    "",
    table(
      ["", "units/s before", "acknowledged", "lost", "lost, in s of the load", "new master after, s"],
      Object.keys(samples).map((name) => [name, of(name, "rate"), of(name, "acknowledged"), of(name, "lost"), of(name, "seconds"), of(name, "promotedAfter", 0.001)]),
    ),
  ].join("\n");
}

/** Formats numbers and times for people. Times are in ms since the epoch. */

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export const count = (number) => whole.format(number);
export const compact = (number) => (number < 10_000 ? whole.format(number) : short.format(number));

/** A share in per cent. Shares below 10 % have one decimal. */
export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = 100 * share;
  return `${value !== 0 && Math.abs(value) < 9.95 ? value.toFixed(1) : Math.round(value)} %`;
}

/** A time of day, with the date unless it is today. */
export function time(ms) {
  const at = new Date(ms);
  const today = at.toDateString() === new Date().toDateString();
  return today ? clock.format(at) : `${day.format(at)} ${clock.format(at)}`;
}

/** The label of a time on an axis. It is the date at midnight and if the labels are a day or more apart (`apartMs`), otherwise hour and minute. */
export function axisTime(ms, apartMs) {
  const at = new Date(ms);
  const isMidnight = at.getHours() === 0 && at.getMinutes() === 0;
  return apartMs >= 86_400_000 || isMidnight ? day.format(at) : minute.format(at);
}

export const iso = (ms) => new Date(ms).toISOString();

const UNITS = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];

/** A duration in its two largest units, such as `1 h 5 min`. */
export function duration(ms) {
  let seconds = Math.max(0, Math.round(ms / 1000));
  const parts = [];
  for (const [unit, size] of UNITS) {
    const number = Math.floor(seconds / size);
    if (number > 0) parts.push(`${number} ${unit}`);
    seconds -= number * size;
    if (parts.length === 2) break;
  }
  return parts.join(" ") || "0 s";
}

/** How long until a time, such as the end of a block. `null` is a block that lasts until lifted. */
export const remaining = (until, now = Date.now()) => (until === null || until === undefined ? "until lifted" : until <= now ? "ended" : duration(until - now));

/** A number of bytes in the unit that gives a short number. */
export function bytes(number) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (number < 1024) return `${number < 10 && unit !== "B" ? number.toFixed(1) : Math.round(number)} ${unit}`;
    number /= 1024;
  }
  return `${number.toFixed(1)} GiB`;
}

const WINDOWS = { 1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day" };

/** A policy's limit as text, such as "30 a minute" for 30 in 60 seconds. */
export function limitOf(policy) {
  const burst = policy.burst ? `, burst ${count(policy.burst)}` : "";
  const seconds = policy.window_seconds;
  return `${count(policy.limit)} ${entryOf(WINDOWS, seconds) ?? `per ${duration(1000 * seconds)}`}${burst}`;
}

/** The entry of a table under a name from outside. Names that every object inherits, such as `constructor`, have none. */
export const entryOf = (table, name) => (Object.hasOwn(table, name) ? table[name] : undefined);

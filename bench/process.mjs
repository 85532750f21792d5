/** What a process has used, by the kernel's own account (Linux). */

import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { Failure } from "../scripts/command.mjs";

/** Microseconds of CPU of all its threads so far. (`/proc/PID/stat` counts in hundredths of a second: too coarse here.) */
export function cpuOf(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  }
  return nanoseconds / 1000;
}

/** Bytes of its memory that are in RAM. */
export function residentOf(pid) {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) * 1024;
}

/** Throws unless the process is workerd itself: npm may have left a script of the same name before it. */
export function assertWorkerd(pid) {
  let program;
  try {
    program = readlinkSync(`/proc/${pid}/exe`);
  } catch {
    throw new Failure("npm run bench reads what a process has used from /proc: it needs Linux");
  }
  if (!/\/workerd$/.test(program)) throw new Failure(`not workerd, but ${program}: its CPU time would be somebody else's`);
}

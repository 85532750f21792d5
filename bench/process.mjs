/** The CPU and memory that a process has used, as the kernel reports them (Linux). */

import { readFileSync, readdirSync, readlinkSync } from "node:fs";
import { Failure } from "../scripts/command.mjs";

/** The CPU of all threads of a process so far, in µs. (`/proc/PID/stat` counts hundredths of a second, which is too coarse.) */
export function cpuOf(pid) {
  let nanoseconds = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8").split(" ")[0]);
  }
  return nanoseconds / 1000;
}

/** The memory of a process that is in RAM, in bytes. */
export function residentOf(pid) {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) * 1024;
}

/** Throws unless the process is workerd itself. npm may install a script of the same name, which starts workerd as another process. */
export function assertWorkerd(pid) {
  let program;
  try {
    program = readlinkSync(`/proc/${pid}/exe`);
  } catch {
    throw new Failure("npm run bench needs Linux: it reads the CPU time of processes from /proc");
  }
  if (!/\/workerd$/.test(program)) throw new Failure(`the process is ${program} and not workerd, so its CPU time is not the Worker's`);
}

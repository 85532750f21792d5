/** The statuses with which a task resumes. Those below 100 stand in place of an HTTP status (src/wire.rs). */
export const FAILED = 0;
export const TIMED_OUT = 1;
export const NOT_TEXT = 2;
export const TOO_LONG = 3;
export const SUCCESS = 200;

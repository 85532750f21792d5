/** What answers a step in place of an HTTP status (src/wire.rs). */
export const FAILED = 0;
export const TIMED_OUT = 1;
export const NOT_TEXT = 2;
export const TOO_LONG = 3;
export const WELL = 200;

/** Values that many tests share. */

/** An hour in seconds, the unit of a policy's window. */
export const HOUR_S = 3600;

/** Values that many tests share. */

/** An hour in seconds, the unit of a policy's window. */
export const HOUR_S = 3600;

/** The address that calls, where one caller is enough. */
export const CALLER = "192.0.2.1";

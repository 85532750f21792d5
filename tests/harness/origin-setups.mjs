/** The ways to configure a limiter in front of an origin, with limits that no test reaches. */

const VARS = { RATE_LIMIT_GENERAL: "100000,60", RATE_LIMIT_IP: "off" };

export const ORIGIN_SETUPS = [
  { name: "ORIGIN_URL", with: (url) => ({ vars: { ...VARS, ORIGIN_URL: url } }) },
  { name: "binding ORIGIN", with: (url) => ({ vars: VARS, services: { ORIGIN: url } }) },
];

/** The variables that the limiter reads (docs/configuration.md). No other variable of a process is copied into the module's memory. */
const READ = /^(?:(?:DEFAULT_)?RATE_LIMIT_|REDIS_|UPSTASH_REDIS_REST_|KV_REST_API_|ORIGIN_)|^(?:ADMIN|CHECK|METRICS)_TOKEN$|^CLIENT_IP_HEADER$|^IPV6_PREFIX$/;

export const isRead = (name) => READ.test(name);

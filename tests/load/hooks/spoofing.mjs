/** One caller that pretends to be another in each request, in headers that a client can write. */

import { raw } from "./raw.mjs";

const LOGIN = { method: "POST", path: "/api/auth/login", body: "{}" };

/** Returns an address that the caller pretends to have. No such address may ever be charged. */
const forged = () => `203.0.113.${1 + Math.floor(Math.random() * 254)}`;

const DISGUISES = [
  (address) => ({ "X-Forwarded-For": address }),
  (address) => ({ "x-forwarded-for": `${address}, 198.51.100.1` }),
  (address) => ({ "X-FORWARDED-FOR": [address, forged(), forged()] }),
  (address) => ({ "X-Real-IP": address }),
  (address) => ({ "x-real-ip": [address, forged()] }),
  (address) => ({ Forwarded: `for=${address};proto=https;by=${forged()}` }),
  (address) => ({ FORWARDED: [`For="${address}"`, `for="[2001:db8::1]:4711"`] }),
  (address) => ({ "True-Client-IP": address, "X-Client-IP": address, "X-Cluster-Client-IP": address }),
  (address) => ({ "Fastly-Client-IP": address, "X-Originating-IP": address, "X-Remote-Addr": address }),
  (address) => ({ "CF-Connecting-IPv6": "2001:db8::1", "CF-Pseudo-IPv4": address, "CF-Connecting-O2O": "1" }),
  (address) => ({ "X-Edge-Limiter-IP": address, "X-Edge-Limiter-Secret": "guess", "X-Edge-Limiter-Passed": "1" }),
  () => ({ "X-RateLimit-Bypass": "guess", "X-RateLimit-Remaining": "1000", "X-RateLimit-Shadow": "true" }),
  (address) => ({ CF_Connecting_IP: address, "CF-Connecting-IP-": address }),
];

let turn = 0;

/** Sends a request with the next disguise. The caller's real address is the one in CF-Connecting-IP. */
export async function spoof(context, events) {
  const disguise = DISGUISES[turn++ % DISGUISES.length](forged());
  const spelling = ["CF-Connecting-IP", "cf-connecting-ip", "CF-CONNECTING-IP"][turn % 3];
  await raw(context, events, { ...LOGIN, name: "forger", headers: { ...disguise, [spelling]: "198.51.100.9" } });
}

/** Sends the platform's own header twice, so that the address is unknown. Cloudflare does not let clients send this header. */
export async function doubleAddress(context, events) {
  await raw(context, events, { ...LOGIN, name: "doubled", headers: { "CF-Connecting-IP": [forged(), forged()] } });
}

/** Sets a virtual user's address, `{{ caller }}` in the YAML. It is sent as `CF-Connecting-IP`, which plain workerd does not set. */

let callers = 0;

/** Chooses an address that no other virtual user has, also over several runs. */
export async function newCaller(context) {
  context.vars.caller = numbered(10, (context.vars.step ?? 0) * 65_536 + callers++);
}

/** Chooses a unique address from another range, for callers that a scenario has to distinguish from the others. */
export async function newAttacker(context) {
  context.vars.caller = numbered(100, callers++);
}

const numbered = (first, number) => [first, (number >> 16) & 255, (number >> 8) & 255, number & 255].join(".");

const upTo = (number) => Math.floor(Math.random() * number);

/** Returns one random group of an IPv6 address. */
const group = () => upTo(65_536).toString(16);

/** Chooses another address of the same /64 for each request, in lower or upper case. */
export async function anotherOfItsNetwork(_request, context) {
  const address = `2001:db8:bad:1:${group()}:${group()}:${group()}:${group()}`;
  context.vars.caller = Math.random() < 0.5 ? address : address.toUpperCase();
}

/** Chooses another address of 203.0.113.0/24 or 2001:db8:bad::/48 for each request, including the first and the last. */
export async function anotherOfTheRange(_request, context) {
  context.vars.caller = any([
    () => `203.0.113.${any([() => 0, () => 255, () => upTo(256)])}`,
    () => `::ffff:203.0.113.${upTo(256)}`,
    () => `2001:db8:bad:${any([() => "0", () => "ffff", group])}:${group()}::${group()}`,
  ]);
}

/** Chooses another address right next to these ranges for each request. */
export async function anotherNextDoor(_request, context) {
  context.vars.caller = any([() => `203.0.112.${upTo(256)}`, () => `203.0.114.${upTo(256)}`, () => `2001:db8:bac:${group()}::${group()}`, () => `2001:db8:bae:${group()}::${group()}`]);
}

const any = (choices) => choices[upTo(choices.length)]();

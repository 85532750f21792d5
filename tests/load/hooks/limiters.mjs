/** Chooses one of several limiters for a virtual user, `{{ limiter }}` in the YAML. The variable `limiters` lists their URLs. */

let turn = 0;

/** Chooses the next limiter, so that repeated calls use all limiters equally. */
export async function nextLimiter(context) {
  const limiters = context.vars.limiters.split(" ");
  context.vars.limiter = limiters[turn++ % limiters.length];
}

/** Which of several limiters a virtual user asks: `{{ limiter }}` in the YAML. The run is given all of them, as `limiters`. */

let turn = 0;

/** The next one, so that whoever calls this again and again asks each as often. */
export async function nextLimiter(context) {
  const limiters = context.vars.limiters.split(" ");
  context.vars.limiter = limiters[turn++ % limiters.length];
}

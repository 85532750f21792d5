/** How long a virtual user stays: `whileTrue` in the YAML, asked after each turn. */

let end;

/** To the end of the run, `seconds` after the first virtual user came: a variable that the run is given. */
export function untilTheEnd(context, done) {
  end ??= performance.now() + context.vars.seconds * 1000;
  done(performance.now() < end);
}

/** For as many turns as the run's variable `turns` says. */
export function forItsTurns(context, done) {
  context.vars.taken = (context.vars.taken ?? 0) + 1;
  done(context.vars.taken < context.vars.turns);
}

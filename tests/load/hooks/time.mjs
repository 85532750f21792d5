/** Decides how long a virtual user stays. The YAML names these functions in `whileTrue`, and Artillery calls them after each turn. */

let end;

/** Stays until `seconds` after the first virtual user has started. `seconds` is a variable of the run. */
export function untilTheEnd(context, done) {
  end ??= performance.now() + context.vars.seconds * 1000;
  done(performance.now() < end);
}

/** Stays for `turns` turns. `turns` is a variable of the run. */
export function forItsTurns(context, done) {
  context.vars.taken = (context.vars.taken ?? 0) + 1;
  done(context.vars.taken < context.vars.turns);
}

//! A counter of the work on a client's input, in steps: bytes read and comparisons made. Tests count steps to bound the
//! cost of the worst input, since a time depends on the machine. Outside of tests counting does nothing.

#[cfg(not(test))]
pub(crate) const fn count(_: usize) {}

#[cfg(test)]
pub(crate) fn count(steps: usize) {
    STEPS.set(STEPS.get() + steps);
}

#[cfg(test)]
thread_local! {
    static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The number of steps that `work` takes.
#[cfg(test)]
pub(crate) fn of(work: impl FnOnce()) -> usize {
    let before = STEPS.get();
    work();
    STEPS.get() - before
}

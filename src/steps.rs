//! Steps of work on what a client has sent: bytes that are looked at, comparisons that are made. Tests count
//! them to bound what the worst input costs, since a time says more of the machine. Elsewhere this is nothing.

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

/// How many steps `work` takes.
#[cfg(test)]
pub(crate) fn of(work: impl FnOnce()) -> usize {
    let before = STEPS.get();
    work();
    STEPS.get() - before
}

//! What is to happen, by its time.

use std::collections::BTreeMap;

use crate::network::Micros;

/// Events in the order of their times; those of one time in the order in which they were entered.
pub(crate) struct Agenda<E> {
    events: BTreeMap<(Micros, u64), E>,
    entered: u64,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self {
            events: BTreeMap::new(),
            entered: 0,
        }
    }
}

impl<E> Agenda<E> {
    pub(crate) fn enter(&mut self, at: Micros, event: E) {
        self.events.insert((at, self.entered), event);
        self.entered += 1;
    }

    /// The next event, if it comes before `until`.
    pub(crate) fn next_before(&mut self, until: Micros) -> Option<(Micros, E)> {
        let next = self.events.first_entry()?;
        let at = next.key().0;
        (at < until).then(|| (at, next.remove()))
    }
}

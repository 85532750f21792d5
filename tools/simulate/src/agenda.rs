//! What is to happen, by its time.

use std::collections::BTreeMap;

use crate::network::Micros;

/// Events in the order of their times; those of one time in the order in which they were scheduled.
pub(crate) struct EventQueue<E> {
    events: BTreeMap<(Micros, u64), E>,
    scheduled: u64,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self {
            events: BTreeMap::new(),
            scheduled: 0,
        }
    }
}

impl<E> EventQueue<E> {
    pub(crate) fn schedule(&mut self, at: Micros, event: E) {
        self.events.insert((at, self.scheduled), event);
        self.scheduled += 1;
    }

    /// The next event, if it comes before `until`.
    pub(crate) fn next_before(&mut self, until: Micros) -> Option<(Micros, E)> {
        let next = self.events.first_entry()?;
        let at = next.key().0;
        (at < until).then(|| (at, next.remove()))
    }
}

//! A queue of simulated events, ordered by time.

use std::collections::BTreeMap;

use crate::network::Micros;

/// Events in the order of their times. Events of the same time stay in the order in which they were scheduled.
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

    /// Removes and returns the next event with its time, if it comes before `until`.
    pub(crate) fn next_before(&mut self, until: Micros) -> Option<(Micros, E)> {
        let next = self.events.first_entry()?;
        let at = next.key().0;
        (at < until).then(|| (at, next.remove()))
    }
}

//! The budget of an isolate: how many commands it may send to Redis in a second, for decisions and records together.
//!
//! No second exceeds the cap. Decisions come first. Records may spend two fifths of the cap at most. Decisions leave
//! that share to records only while records wait. So a flood that spends the whole cap does not keep its own denials from
//! being recorded. The application's own calls never touch the share of records, so they take at most three fifths from
//! decisions. An operator's calls are counted and never refused.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;

use crate::quota::{Algorithm, Quota, QuotaState};
use crate::time::{Deadline, Millis, Timestamp};

/// The share of the cap that records may spend, in thousandths.
const RECORDS_SHARE_THOUSANDTHS: u32 = 400;

/// How long decisions leave records their share after records last asked for it.
const RECORDS_WAIT_FOR: Millis = Millis::from_secs(2);

/// What commands are spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A request that waits, or what later decisions need.
    Decision,
    /// Records, and the reconciliation of requests that were already admitted. Both can wait.
    Records,
    /// A call that the application makes for itself.
    Application,
}

/// The commands that an isolate may spend. Clones share one budget.
#[derive(Clone, Default)]
pub struct Budget {
    capped: Option<Rc<Cap>>,
    sent: Rc<Cell<u64>>,
}

struct Cap {
    all: Quota,
    records: Quota,
    spent: RefCell<Spent>,
    /// Commands that are paid and not sent yet.
    prepaid: Cell<u32>,
    /// Until when decisions leave records their share.
    waiting: Cell<Deadline>,
}

#[derive(Default)]
struct Spent {
    all: Option<QuotaState>,
    records: Option<QuotaState>,
}

/// Takes `commands` from a quota, or nothing if fewer are left.
fn take(quota: &Quota, spent: &mut Option<QuotaState>, commands: u32, now: Timestamp) {
    let decided = quota.decide(spent.as_ref(), commands, now);
    if let Some(state) = decided.admitted.or(decided.repaired) {
        *spent = Some(state);
    }
}

fn left(quota: &Quota, spent: Option<&QuotaState>, now: Timestamp) -> u32 {
    quota.decide(spent, 0, now).decision.remaining
}

impl Budget {
    /// Creates a budget of at most `per_second` commands in any second. `None`: any number.
    #[must_use]
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        // A window of a second is valid with any limit, so there is no error to handle.
        let quota = |limit| Quota::new(Algorithm::SlidingWindow, limit, Millis::from_secs(1)).ok();
        let all = per_second.and_then(quota);
        let capped = all.map(|all| {
            Rc::new(Cap {
                records: all.scaled(RECORDS_SHARE_THOUSANDTHS),
                all,
                spent: RefCell::default(),
                prepaid: Cell::default(),
                waiting: Cell::default(),
            })
        });
        Self {
            capped,
            sent: Rc::default(),
        }
    }

    /// Returns an upper bound of the commands that were sent so far. A script may run fewer than were counted for it.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    fn add_sent(&self, commands: u32) {
        self.sent.set(self.sent.get() + u64::from(commands));
    }

    /// Pays for commands that are sent now. Returns `false` and pays nothing if the budget does not allow them.
    #[must_use]
    pub fn spend(&self, commands: u32, purpose: Purpose, now: Timestamp) -> bool {
        let paid = self.pay(commands, purpose, now);
        if paid {
            self.add_sent(commands);
        }
        paid
    }

    fn pay(&self, commands: u32, purpose: Purpose, now: Timestamp) -> bool {
        let Some(capped) = &self.capped else {
            return true;
        };
        let spent = &mut *capped.spent.borrow_mut();
        let left_in_all = left(&capped.all, spent.all.as_ref(), now);
        let left_for_records = left(&capped.records, spent.records.as_ref(), now);
        let is_waiting = capped.waiting.get().is_pending(now);
        let allowed = match purpose {
            Purpose::Decision if !is_waiting => left_in_all >= commands,
            Purpose::Decision | Purpose::Application => {
                left_in_all >= commands.saturating_add(left_for_records)
            }
            Purpose::Records => left_in_all.min(left_for_records) >= commands,
        };
        if allowed && purpose == Purpose::Records {
            take(&capped.records, &mut spent.records, commands, now);
        }
        if allowed {
            take(&capped.all, &mut spent.all, commands, now);
        }
        allowed
    }

    /// Pays for commands like [`spend`](Self::spend). They are [counted](Self::count) later, when they are sent.
    #[must_use]
    pub fn prepay(&self, commands: u32, purpose: Purpose, now: Timestamp) -> bool {
        let paid = self.pay(commands, purpose, now);
        if let Some(capped) = self.capped.as_ref().filter(|_| paid) {
            capped.prepaid.set(commands);
        }
        paid
    }

    /// Returns how many commands records may spend now. `None`: any number. Call it when there are records to write: from
    /// now on, decisions leave records their share, for two seconds or until [`stop_waiting`](Self::stop_waiting).
    #[must_use]
    pub fn left_for_records(&self, now: Timestamp) -> Option<u32> {
        let capped = self.capped.as_ref()?;
        capped.waiting.set(Deadline::after(RECORDS_WAIT_FOR, now));
        let spent = capped.spent.borrow();
        let share = left(&capped.records, spent.records.as_ref(), now);
        Some(share.min(left(&capped.all, spent.all.as_ref(), now)))
    }

    /// Returns the most commands that records may spend in a second. `None`: any number.
    #[must_use]
    pub fn most_for_records(&self) -> Option<u32> {
        self.capped.as_ref().map(|capped| capped.records.limit())
    }

    /// Whether there is a cap.
    #[must_use]
    pub const fn is_bounded(&self) -> bool {
        self.capped.is_some()
    }

    /// Lets decisions spend the share of records, because there are no more records to write.
    pub fn stop_waiting(&self) {
        if let Some(capped) = &self.capped {
            capped.waiting.set(Deadline::OVER);
        }
    }

    /// Counts commands that are sent. Those that were not prepaid are taken from the budget, even beyond what is left.
    pub fn count(&self, commands: u32, now: Timestamp) {
        self.add_sent(commands);
        let Some(capped) = &self.capped else { return };
        let prepaid = capped.prepaid.get().min(commands);
        capped.prepaid.set(capped.prepaid.get() - prepaid);
        let spent = &mut *capped.spent.borrow_mut();
        let left = left(&capped.all, spent.all.as_ref(), now);
        take(
            &capped.all,
            &mut spent.all,
            left.min(commands - prepaid),
            now,
        );
    }

    /// Forgets prepaid commands, because they are not sent any more. They stay spent.
    pub fn forget_prepaid(&self) {
        if let Some(capped) = &self.capped {
            capped.prepaid.set(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::{any, prop_assert, proptest};

    use super::{Budget, Purpose};
    use crate::store::conformance::START;
    use crate::time::Millis;

    const CAP: u32 = 50;
    const SHARE: u32 = 20;

    proptest! {
        /// For any order of purposes and pauses. Records do not exceed their share either, commands that are prepaid and
        /// sent later included.
        #[test]
        fn no_second_exceeds_the_cap(
            steps in proptest::collection::vec((0..150_u64, 0..5_u8, 1..25_u32), 1..200),
        ) {
            let budget = Budget::new(NonZeroU32::new(CAP));
            let mut ms = 0;
            let mut spent: Vec<(u64, u32, bool)> = Vec::new();
            for (pause, step, commands) in steps {
                ms += pause;
                let now = START + Millis::new(ms);
                let is_records = !matches!(step, 0 | 4);
                let paid = match step {
                    0 => budget.spend(commands, Purpose::Decision, now),
                    1 => budget.spend(commands, Purpose::Records, now),
                    4 => budget.spend(commands, Purpose::Application, now),
                    _ => {
                        let left = budget.left_for_records(now).unwrap();
                        let paid = budget.prepay(commands, Purpose::Records, now);
                        prop_assert!(paid == (commands <= left));
                        if paid {
                            budget.count(commands, now);
                        }
                        paid
                    }
                };
                if step == 3 {
                    budget.stop_waiting();
                }
                if paid {
                    spent.push((ms, commands, is_records));
                }
            }
            for (place, (from, ..)) in spent.iter().enumerate() {
                let within = spent[place..].iter().take_while(|(at, ..)| *at < from + 1000);
                let sums = within.fold((0, 0), |(all, records), (_, commands, is_records)| {
                    (all + commands, records + if *is_records { *commands } else { 0 })
                });
                prop_assert!(sums.0 <= CAP && sums.1 <= SHARE, "{sums:?}");
            }
        }

        #[test]
        fn without_a_cap_any_number_of_commands_may_be_spent(commands in any::<u32>()) {
            let budget = Budget::new(None);
            prop_assert!(budget.spend(commands, Purpose::Decision, START));
            prop_assert!(budget.prepay(commands, Purpose::Records, START));
            prop_assert!(budget.left_for_records(START).is_none());
        }
    }

    #[test]
    fn decisions_may_spend_the_whole_cap_unless_records_wait() {
        let budget = Budget::new(NonZeroU32::new(CAP));
        let decisions = |ms| {
            let now = START + Millis::new(ms);
            let decision = || budget.spend(1, Purpose::Decision, now);
            std::iter::repeat_with(decision)
                .take_while(|paid| *paid)
                .count()
        };
        assert_eq!(decisions(0), 50);
        let records = |ms| budget.left_for_records(START + Millis::new(ms));
        assert_eq!(records(500), Some(0));
        assert_eq!(decisions(1100), 30);
        assert_eq!(records(1100), Some(20));
        assert!(budget.prepay(20, Purpose::Records, START + Millis::new(1100)));
        assert_eq!(decisions(1100), 0);
        budget.stop_waiting();
        assert_eq!(decisions(2200), 50);
    }

    #[test]
    fn an_application_does_not_spend_the_share_of_records() {
        let budget = Budget::new(NonZeroU32::new(CAP));
        let spend = |purpose| {
            let one = || budget.spend(1, purpose, START);
            std::iter::repeat_with(one).take_while(|paid| *paid).count()
        };
        assert_eq!(spend(Purpose::Application), 30);
        assert_eq!(spend(Purpose::Records), 20);
        let budget = Budget::new(NonZeroU32::new(CAP));
        assert!(budget.spend(30, Purpose::Application, START));
        assert!(!budget.spend(1, Purpose::Application, START));
        assert!(budget.spend(20, Purpose::Decision, START));
    }

    #[test]
    fn prepaid_commands_are_not_taken_again_when_they_are_counted() {
        let budget = Budget::new(NonZeroU32::new(CAP));
        let left = || {
            let left = budget.left_for_records(START);
            budget.stop_waiting();
            left
        };
        assert!(budget.prepay(8, Purpose::Decision, START));
        budget.count(5, START);
        budget.count(10, START);
        assert!(
            budget.spend(35, Purpose::Decision, START),
            "8 prepaid and 7 further commands are spent"
        );
        assert_eq!(left(), Some(0));
        // An operator's calls may count more than is left.
        budget.count(100, START);
        assert_eq!(left(), Some(0));
    }
}

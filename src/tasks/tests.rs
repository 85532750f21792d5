//! Tasks that a test drives.

use std::cell::Cell;
use std::rc::Rc;

use super::{Effect, EffectResult, Mailbox, TaskId, TaskStep, Tasks};
use crate::store::conformance::START;
use crate::time::{Millis, Timestamp};

fn at(ms: u64) -> Timestamp {
    START + Millis::new(ms)
}

fn tasks() -> (Rc<Mailbox>, Tasks<u32>) {
    let mailbox = Rc::new(Mailbox::default());
    (Rc::clone(&mailbox), Tasks::new(mailbox))
}

const SLEEP: Effect = Effect::Sleep(Millis::new(100));

fn id<T>(step: &TaskStep<T>) -> TaskId {
    match step {
        TaskStep::Asks(id, _) => *id,
        _ => panic!("the task does not wait"),
    }
}

/// Starts a task that sleeps and then ends with 1.
fn sleeping(mailbox: &Rc<Mailbox>, tasks: &mut Tasks<u32>, now: Timestamp) -> TaskId {
    let mailbox = Rc::clone(mailbox);
    let task = async move {
        mailbox.ask(SLEEP).await;
        1
    };
    id(&tasks.start(task, now))
}

/// Counts how often it is dropped.
struct Guard(Rc<Cell<u32>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn a_task_without_effects_ends_at_once() {
    let (_, mut tasks) = tasks();
    assert_eq!(tasks.start(async { 7 }, at(0)), TaskStep::Done(7));
    assert!(tasks.is_empty());
}

#[test]
fn a_task_asks_for_one_effect_after_another() {
    let (mailbox, mut tasks) = tasks();
    let task = async move {
        let mut verified = 0;
        for _ in 0..3 {
            let effect = Effect::KeySet {
                url: "u".to_owned(),
            };
            if mailbox.ask(effect).await == EffectResult::KeySet(Ok("keys".to_owned())) {
                verified += 1;
            }
        }
        verified
    };
    let mut step = tasks.start(task, at(0));
    for _ in 0..3 {
        let TaskStep::Asks(id, Effect::KeySet { url }) = step else {
            panic!("{step:?}")
        };
        assert_eq!((url.as_str(), tasks.len()), ("u", 1));
        step = tasks.resume(id, EffectResult::KeySet(Ok("keys".to_owned())), at(1));
    }
    assert_eq!((step, tasks.len()), (TaskStep::Done(3), 0));
}

#[test]
fn each_task_gets_its_own_result_in_any_order() {
    let (mailbox, mut tasks) = tasks();
    let start = |tasks: &mut Tasks<u32>, number| {
        let mailbox = Rc::clone(&mailbox);
        let task = async move {
            match mailbox.ask(SLEEP).await {
                EffectResult::Verified(true) => 100 + number,
                _ => number,
            }
        };
        id(&tasks.start(task, at(0)))
    };
    let ids: Vec<TaskId> = (0..50).map(|number| start(&mut tasks, number)).collect();
    for (number, id) in ids.iter().enumerate().rev() {
        let number = u32::try_from(number).unwrap();
        let is_valid = number % 2 == 0;
        let done = tasks.resume(*id, EffectResult::Verified(is_valid), at(1));
        let expected = if is_valid { 100 + number } else { number };
        assert_eq!(done, TaskStep::Done(expected));
    }
}

#[test]
fn the_number_of_an_ended_task_resumes_no_other_task() {
    let (mailbox, mut tasks) = tasks();
    let start = |tasks: &mut Tasks<u32>| sleeping(&mailbox, tasks, at(0));
    let first = start(&mut tasks);
    assert_eq!(
        tasks.resume(first, EffectResult::Slept, at(1)),
        TaskStep::Done(1)
    );
    assert_eq!(
        tasks.resume(first, EffectResult::Slept, at(1)),
        TaskStep::Unknown
    );
    let second = start(&mut tasks);
    assert_ne!(first, second);
    assert_eq!(
        tasks.resume(first, EffectResult::Slept, at(1)),
        TaskStep::Unknown
    );
    assert_eq!(
        tasks.resume(second, EffectResult::Slept, at(1)),
        TaskStep::Done(1)
    );
    let unknown = TaskId::from_number(u32::MAX);
    assert_eq!(
        tasks.resume(unknown, EffectResult::Slept, at(1)),
        TaskStep::Unknown
    );
}

#[test]
fn a_task_that_waits_without_asking_for_an_effect_is_dropped() {
    let (_, mut tasks) = tasks();
    assert_eq!(tasks.start(std::future::pending(), at(0)), TaskStep::Stuck);
    assert!(tasks.is_empty());
}

/// If a client disconnects, the host cancels its request and never resumes the task.
#[test]
fn tasks_that_the_host_never_resumes_are_dropped() {
    let (mailbox, mut tasks) = tasks();
    let dropped = Rc::new(Cell::new(0));
    let mut start = |now| {
        let (mailbox, guard) = (Rc::clone(&mailbox), Guard(Rc::clone(&dropped)));
        let task = async move {
            mailbox.ask(SLEEP).await;
            drop(guard);
            1
        };
        (id(&tasks.start(task, now)), tasks.len())
    };
    let ids: Vec<TaskId> = (0..100).map(|_| start(at(0)).0).collect();
    let last = at(10_099);
    start(last);
    assert_eq!(dropped.get(), 0, "all may still be resumed");
    for _ in 0..100 {
        start(at(10_100));
    }
    assert_eq!(dropped.get(), 0, "the clock may have been set ahead");
    for _ in 0..200 {
        start(at(20_100));
    }
    assert!(dropped.get() >= 100);
    let unknown = tasks.resume(ids[7], EffectResult::Slept, at(20_101));
    assert_eq!(unknown, TaskStep::Unknown);
}

#[test]
fn a_clock_that_jumps_back_drops_no_task() {
    let (mailbox, mut tasks) = tasks();
    let first = sleeping(&mailbox, &mut tasks, at(3_600_000));
    for _ in 0..100 {
        sleeping(&mailbox, &mut tasks, at(0));
    }
    assert_eq!(
        tasks.resume(first, EffectResult::Slept, at(0)),
        TaskStep::Done(1)
    );
}

#[test]
fn a_clock_that_jumps_ahead_drops_no_task() {
    let (mailbox, mut tasks) = tasks();
    let first = sleeping(&mailbox, &mut tasks, at(0));
    for _ in 0..100 {
        sleeping(&mailbox, &mut tasks, at(3_600_000));
    }
    let done = tasks.resume(first, EffectResult::Slept, at(3_600_001));
    assert_eq!(done, TaskStep::Done(1));
}

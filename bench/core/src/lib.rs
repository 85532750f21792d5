//! The loops that are measured natively, in WebAssembly and under criterion.
//!
//! A [`Case`] is set up once with a size, and then runs a number of rounds. Each round's outcome goes into a
//! checksum. So no round can be optimised away, and the checksum shows that both targets do the same.

use std::cell::RefCell;

mod cases;

pub use cases::Case;

/// A case that is set up. It runs a number of rounds and returns their checksum.
pub type Loop = Box<dyn FnMut(u32) -> u64>;

thread_local! {
    static READY: RefCell<Option<Loop>> = const { RefCell::new(None) };
}

/// Sets up the case with a number. Returns 1 if there is such a case, otherwise 0.
#[allow(
    unsafe_code,
    reason = "the attribute that exports it; there is no other export of the name"
)]
#[unsafe(no_mangle)]
pub extern "C" fn prepare(case: u32, size: u32) -> u32 {
    let case = Case::ALL.get(case as usize);
    let ready = case.map(|case| case.prepare(size));
    let found = ready.is_some();
    READY.with_borrow_mut(|place| *place = ready);
    found.into()
}

/// Runs a number of rounds of the case that is set up.
#[allow(
    unsafe_code,
    reason = "the attribute that exports it; there is no other export of the name"
)]
#[unsafe(no_mangle)]
pub extern "C" fn run(rounds: u32) -> u64 {
    READY.with_borrow_mut(|ready| ready.as_mut().map_or(0, |run| run(rounds)))
}

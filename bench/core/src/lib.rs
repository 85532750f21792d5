//! The loops that are measured, the same natively, in WebAssembly and under criterion.
//!
//! A [`Case`] of a size is set up once, then asked for so many rounds. Each round's outcome goes into a
//! checksum, so that no round can be optimised away and both targets can be seen to do the same.

use std::cell::RefCell;

mod cases;

pub use cases::Case;

/// What is set up: runs so many rounds and returns their checksum.
pub type Loop = Box<dyn FnMut(u32) -> u64>;

thread_local! {
    static READY: RefCell<Option<Loop>> = const { RefCell::new(None) };
}

/// Sets up the case of that number; returns whether there is one.
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

/// So many rounds of what is set up.
#[allow(
    unsafe_code,
    reason = "the attribute that exports it; there is no other export of the name"
)]
#[unsafe(no_mangle)]
pub extern "C" fn run(rounds: u32) -> u64 {
    READY.with_borrow_mut(|ready| ready.as_mut().map_or(0, |run| run(rounds)))
}

//! Blocks of addresses and ranges, everywhere: what an operator or the escalation has set.
//!
//! An address's block is a record that every decision reads ([`crate::store`]). Ranges are in one
//! hash, of which each isolate keeps a [copy](copy::BlocklistCopy); a version that comes with every
//! decision says when the copy is old.

mod apart;
mod block;
mod change;
pub mod copy;
pub mod pages;
pub mod policies;
pub mod records;
mod target;
pub mod version;

pub use block::{AddressBlock, Block, BlockedBy};
pub(crate) use change::{Condition, GuardedCommands, VersionChange};
pub use target::{BlockTarget, Refusal};

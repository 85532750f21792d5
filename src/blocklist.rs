//! Blocks of addresses and ranges on all routes, set by operators or by the escalation.
//!
//! The block of an address is a record that every decision reads ([`crate::store`]). Ranges are in one
//! hash, of which each isolate keeps a [copy](copy::BlocklistCopy). Every decision returns a version, by
//! which the isolate knows when its copy is out of date.

mod block;
mod change;
mod cluster;
pub mod copy;
pub mod pages;
pub mod policy_blocks;
pub mod records;
mod target;
pub mod version;

pub use block::{AddressBlock, Block, BlockedBy};
pub(crate) use change::{Condition, GuardedCommands, VersionChange};
pub use target::{BlockTarget, Refusal};

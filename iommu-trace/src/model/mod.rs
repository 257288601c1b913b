//! The mirror of the kernel's attach handles. Pure: no I/O, no clock of its own.

mod features;
pub mod span;

pub use features::Features;

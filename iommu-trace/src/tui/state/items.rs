//! Names for what can be selected, which stay true while rows come and go.

use crate::event::Ptr;

/// Something that can be selected and opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A group, by its number.
    Group(Option<u32>),
    /// An attachment, by its life's number.
    Life(u64),
    /// A change that has not returned, by its entry and thread.
    Changing(u64, u32),
    /// A fault, by its report, thread and address.
    Fault(u64, u32, u64),
    /// An unrecoverable fault, by its time and address.
    DmaFault(u64, u64),
    /// A broken rule, by its place.
    Breach(usize),
    /// A probe, by its place.
    Probe(usize),
    /// A domain.
    Domain(Ptr),
    /// A kind of invalidation.
    Invalidation(Ptr, &'static str),
    /// A stage of faults, by its place.
    Stage(usize),
    /// A line of the overview, by its place.
    Kind(&'static str),
}

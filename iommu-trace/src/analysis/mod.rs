//! What a whole run comes to: statistics, the lives of handles, and what reports and exports are made of. Fed with what the
//! model tells, from any source; no I/O.

mod compare;
mod lives;
mod stats;
mod stats_text;

pub use compare::{Change, Comparison};
pub use lives::{Life, Lives};
pub use stats::{DeviceStats, EventCount, SlowFault, Stats, StatsDocument};

use crate::{
    event::Event,
    model::{
        Violation,
        span::{FaultSpan, Span},
    },
};

/// Takes note of what happens in a run.
pub trait Observer {
    /// An event, before the model has it.
    fn event(&mut self, _event: &Event) {}

    /// Something that happened and is asked for.
    fn span(&mut self, span: &Span);

    /// A rule that was broken.
    fn violation(&mut self, violation: &Violation);
}

/// The PASID of a fault, 0 for a request by RID.
#[must_use]
pub fn pasid(fault: &FaultSpan) -> u32 {
    fault.pasid.unwrap_or(0)
}

//! The metrics: one table, what is counted between two looks, and the forms in which it is told.
//!
//! A [`Watcher`] sees every event and what the model made of it, and keeps what only grows. At a look it makes a
//! [`Snapshot`], with what the model and its mirror hold at that moment. The text forms and OTLP are made of snapshots,
//! so that they cannot disagree. Pure: no I/O and no clock.

mod histogram;
mod labels;
#[cfg(feature = "otlp")]
pub mod otlp;
mod snapshot;
mod table;
pub mod text;
mod watcher;

pub use histogram::{Bounds, Histogram};
pub use labels::DeviceLimit;
pub use snapshot::{Family, Look, Point, Snapshot, Usage, Value};
pub use table::{Id, Kind, METRICS, Metric, Unit};
pub use watcher::Watcher;

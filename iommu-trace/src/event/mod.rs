//! Typed events: what one probe saw at one moment, decoded once from a [`record`](iommu_trace_common::record).
//!
//! This room knows the kernel's words and the record layouts; it knows nothing of BPF, files or clocks. An
//! [`Event`] is small, owned and comparable, so that the live kernel, a recording, a property test and a fuzzer
//! can all make them.

mod codes;
mod decode;
mod encode;
mod fault;
mod hardware;
mod snapshot;
mod sum;
mod types;
mod words;

pub use codes::*;
pub use decode::{DecodeError, decode, decode_body};
pub use encode::{NoRecord, encode, encode_body};
pub use fault::*;
pub use hardware::{DmaFault, DmaOp, Invalidate, SmmuFault};
pub use snapshot::{SlotState, SlotWhat};
pub use sum::Sum;
pub use types::*;
pub use words::*;

pub use iommu_trace_common::{Phase, ProbeId};

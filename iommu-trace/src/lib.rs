//! iommu-trace: who owns every IOMMU attachment, whether its handle lives and dies by the rules, and how long a
//! device's fault takes to find its device.

pub mod analysis;
pub mod cli;
pub mod event;
pub mod export;
pub mod kernel;
pub mod metrics;
pub mod model;
pub mod output;
pub mod probes;
pub mod recording;
pub mod report;
pub mod sandbox;
pub mod serve;
pub mod source;
pub mod tui;
pub mod version;

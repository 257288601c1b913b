//! The exporter: metrics over HTTP, for machines that nobody is looking at.
//!
//! Three threads: the source's reader, the [`monitor`](self) that runs model and rules, and the HTTP server's. A look at
//! the metrics waits for the monitor between two batches, and never for or on the reader of the ring.

mod access;
mod connection;
mod monitor;
mod pages;
#[cfg(feature = "otlp")]
mod push;
mod service;
pub mod testing;
mod tls;
mod usage;
mod web_config;

pub use access::Access;
pub use monitor::{Monitor, MonitorOptions};
#[cfg(feature = "otlp")]
pub use push::{Endpoint, PushOptions};
pub use service::{Control, Exporter, ServeOptions};
pub use web_config::WebConfig;

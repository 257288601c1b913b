//! What happened, in the forms of other tools. Fed with what the model tells; the caller does the I/O.

#[cfg(feature = "parquet")]
mod columns;
mod lanes;
mod perfetto;
mod perfetto_proto;
#[cfg(feature = "parquet")]
mod tables;

pub use perfetto::Perfetto;
#[cfg(feature = "parquet")]
pub use tables::Tables;

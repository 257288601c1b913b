//! What happened, in the forms of other tools. Fed with what the model tells; the caller does the I/O.

mod lanes;
mod perfetto;
mod perfetto_proto;

pub use perfetto::Perfetto;

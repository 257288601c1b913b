//! Recordings: the `.itr` file format, its writer, and its reader, which is a [`Source`] like the
//! live kernel.
//!
//! A file is a header, then frames, then an index. Each frame is packed and has a checksum, and can be read without those
//! before it; `docs/recording-format.md` describes every byte. **A file from anyone is untrusted input**: every length is
//! bounded before memory is taken for it, nothing in it makes the reader panic, and what it says is made harmless for
//! terminals. Reading takes 40 MiB at most, 128 MiB for stacks, and 6.5 MiB for each of the 64 batches that may wait for a slow
//! consumer, beside the consumer's own model.
//!
//! | room | for |
//! |---|---|
//! | `format` | magic, version, frame headers, checksums |
//! | `header` | the document about the machine |
//! | `events`, `stacks`, `index` | the payloads of the three kinds of frames |
//! | `frame`, `writer` | making frames and files |
//! | `input`, `reader`, `source` | reading them, as a source |
//! | `create`, `files` | making the file itself, safely, and the next one |
//! | `flight` | keeping the newest in memory |
//! | `tee` | recording what is consumed |

mod create;
mod events;
mod files;
mod flight;
mod format;
mod frame;
mod header;
mod index;
mod input;
mod reader;
mod source;
mod stacks;
mod tee;
pub mod testing;
mod varint;
mod writer;

use std::path::Path;

pub use create::{numbered, target};
pub use files::{Files, Limits};
pub use flight::Flight;
pub use format::{Damage, VERSION};
pub use frame::{Frame, Framer, MAX_EVENTS};
pub use header::Header;
pub use index::{Entry, Index};
pub use source::{Opened, Recording};
pub use tee::Tee;
pub use writer::{FrameWriter, Writer};

use crate::source::Source;

/// Opens a recording as a source; `-` is standard input.
pub fn open(path: &Path) -> anyhow::Result<Box<dyn Source>> {
    Ok(Box::new(Recording::open(path)?))
}

//! The bytes around the events: what a file begins with, and what each frame begins with. docs/recording-format.md
//! describes them for other readers. Every length is bounded before anything is allocated for it.

use std::io;

/// What every recording begins with. The first byte is no text, the line ends show a transfer that changes them.
pub const MAGIC: [u8; 8] = *b"\x89ITR\r\n\x1a\n";
/// The version written: grows when an older reader would misread the file.
pub const VERSION: u32 = 1;
/// Bytes before the header document: magic, version, length.
pub const PREFIX: usize = 16;
/// The largest header document.
pub const MAX_HEADER: u32 = 1 << 20;
/// What every frame begins with.
pub const FRAME_MAGIC: [u8; 4] = *b"\xf5FRM";
/// Bytes of a frame before its payload.
pub const FRAME_HEADER: usize = 56;
/// The largest payload of a frame, as stored and unpacked.
pub const MAX_FRAME: u32 = 16 << 20;
/// What a recording that was closed ends with.
pub const END_MAGIC: [u8; 8] = *b"\x89ITREND\n";
/// Bytes of the trailer: where the index is, and [`END_MAGIC`].
pub const TRAILER: usize = 16;

/// Why a recording cannot be read (on).
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Another kind of file.
    #[error("it is no recording of iommu-trace: it does not begin as one does")]
    NoRecording,
    /// A version that is not known here.
    #[error("it is of format version {0}, and this iommu-trace reads up to version {VERSION}: a newer one is needed")]
    Newer(u32),
    /// It ends before its header does.
    #[error("it is cut within its header, before any event")]
    CutHeader,
    /// The header does not make sense.
    #[error("its header is damaged: {0}")]
    Header(String),
    /// It ends within a frame.
    #[error("it is cut within a frame")]
    Cut,
    /// It ends behind a whole frame, but not as a closed one does.
    #[error("it was not closed: the recorder was killed, or the end is missing")]
    Unclosed,
    /// Something else than a frame.
    #[error("what is at byte {at} is no frame: {why}")]
    Frame {
        /// Where it begins.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// The file could not be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Damage {
    /// Whether it is what a kill or a crash leaves: an end that is missing, with everything before it whole.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        matches!(self, Damage::Cut | Damage::Unclosed)
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events and the ends of their batches.
    Events,
    /// Kernel stacks that later events refer to.
    Stacks,
    /// Where the frames of events are.
    Index,
    /// One that this version does not know and may pass over.
    Other(u8),
}

/// Kinds from here on may be passed over by who does not know them.
const OPTIONAL: u8 = 0x80;

impl Kind {
    fn number(self) -> u8 {
        match self {
            Kind::Events => 1,
            Kind::Stacks => 2,
            Kind::Index => 3,
            Kind::Other(number) => number,
        }
    }

    fn from_number(number: u8) -> Option<Kind> {
        Some(match number {
            1 => Kind::Events,
            2 => Kind::Stacks,
            3 => Kind::Index,
            OPTIONAL.. => Kind::Other(number),
            _ => return None,
        })
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it holds.
    pub kind: Kind,
    /// Bytes of the payload as stored (zstd).
    pub stored: u32,
    /// Bytes of the payload unpacked.
    pub unpacked: u32,
    /// Events, stacks or entries in it.
    pub count: u32,
    /// The time of its first event; 0 without any.
    pub first: u64,
    /// The latest time of its events; 0 without any.
    pub last: u64,
    /// No later event is older than this, as its last batch says.
    pub upto: u64,
}

impl FrameHeader {
    /// Its bytes, with the payload's checksum and its own.
    #[must_use]
    pub fn to_bytes(self, payload: &[u8]) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &FRAME_MAGIC);
        put(4, &[self.kind.number()]);
        put(8, &self.stored.to_le_bytes());
        put(12, &self.unpacked.to_le_bytes());
        put(16, &self.count.to_le_bytes());
        put(24, &self.first.to_le_bytes());
        put(32, &self.last.to_le_bytes());
        put(40, &self.upto.to_le_bytes());
        put(48, &checksum(&[payload]).to_le_bytes());
        let own = checksum(&[&bytes[..FRAME_HEADER - 4]]);
        bytes[FRAME_HEADER - 4..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads it, if its own checksum is right; the payload's is left to [`FrameHeader::verify`].
    pub fn from_bytes(bytes: &[u8; FRAME_HEADER], at: u64) -> Result<FrameHeader, Damage> {
        let wrong = |why: String| Damage::Frame { at, why };
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..4] != FRAME_MAGIC {
            return Err(wrong("it does not begin as one does".into()));
        }
        if checksum(&[&bytes[..FRAME_HEADER - 4]]) != u32_at(FRAME_HEADER - 4) {
            return Err(wrong("the checksum of its header does not match".into()));
        }
        let Some(kind) = Kind::from_number(bytes[4]) else {
            return Err(wrong(format!(
                "its kind {} is unknown to this iommu-trace: a newer one may know it",
                bytes[4]
            )));
        };
        let header = FrameHeader {
            kind,
            stored: u32_at(8),
            unpacked: u32_at(12),
            count: u32_at(16),
            first: u64_at(24),
            last: u64_at(32),
            upto: u64_at(40),
        };
        if header.stored > MAX_FRAME || header.unpacked > MAX_FRAME {
            return Err(wrong(format!(
                "it claims {} bytes ({} unpacked), and none may be larger than {MAX_FRAME}",
                header.stored, header.unpacked
            )));
        }
        Ok(header)
    }

    /// Checks the payload against its checksum.
    pub fn verify(bytes: &[u8; FRAME_HEADER], payload: &[u8], at: u64) -> Result<(), Damage> {
        if checksum(&[payload]).to_le_bytes() != bytes[48..52] {
            return Err(Damage::Frame { at, why: "the checksum of its payload does not match".into() });
        }
        Ok(())
    }
}

/// CRC-32 (IEEE 802.3, as zlib has it) of all parts, one after the other.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: FrameHeader =
        FrameHeader { kind: Kind::Events, stored: 3, unpacked: 9, count: 2, first: 5, last: 7, upto: 8 };

    #[test]
    fn a_header_comes_back() {
        let bytes = HEADER.to_bytes(b"abc");
        assert_eq!(FrameHeader::from_bytes(&bytes, 0).unwrap(), HEADER);
        FrameHeader::verify(&bytes, b"abc", 0).unwrap();
    }

    #[test]
    fn no_bit_can_change_unseen() {
        let good = HEADER.to_bytes(b"abc");
        for bit in 0..(FRAME_HEADER + 3) * 8 {
            let (mut bytes, mut payload) = (good, *b"abc");
            match bytes.get_mut(bit / 8) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => payload[bit / 8 - FRAME_HEADER] ^= 1 << (bit % 8),
            }
            let seen = FrameHeader::from_bytes(&bytes, 0).is_err() || FrameHeader::verify(&bytes, &payload, 0).is_err();
            assert!(seen, "bit {bit}");
        }
    }

    #[test]
    fn absurd_lengths_are_refused_before_anything_is_made_of_them() {
        for (stored, unpacked) in [(MAX_FRAME + 1, 0), (0, MAX_FRAME + 1), (u32::MAX, u32::MAX)] {
            let bytes = FrameHeader { stored, unpacked, ..HEADER }.to_bytes(b"abc");
            let told = FrameHeader::from_bytes(&bytes, 77).unwrap_err().to_string();
            assert!(told.contains("byte 77") && told.contains("larger"), "{told}");
        }
    }

    #[test]
    fn an_unknown_kind_is_passed_over_only_when_it_says_so() {
        let bytes = |number| FrameHeader { kind: Kind::Other(number), ..HEADER }.to_bytes(b"abc");
        assert_eq!(FrameHeader::from_bytes(&bytes(0x80), 0).unwrap().kind, Kind::Other(0x80));
        assert!(FrameHeader::from_bytes(&bytes(9), 0).unwrap_err().to_string().contains("a newer one may know it"));
    }
}

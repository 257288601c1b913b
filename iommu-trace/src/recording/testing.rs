//! For fuzzers and tests: parts of the format by themselves, with checksums that are right, so that what lies behind them
//! is reached.

use super::{
    Header,
    events::{Decoder, Item},
    format::{Damage, FRAME_HEADER, FRAME_MAGIC, MAGIC, PREFIX, VERSION, checksum},
    stacks::Table,
};

/// The items of a payload of events: how many, or what is wrong behind them.
pub fn events(payload: &[u8], first: u64, mut each: impl FnMut(&crate::event::Event)) -> Result<usize, &'static str> {
    let mut decoder = Decoder::default();
    decoder.begin(payload.to_vec(), first);
    let mut count = 0;
    while let Some(item) = decoder.next_item()? {
        if let Item::Event(event) = &item {
            each(event);
        }
        count += 1;
    }
    Ok(count)
}

/// Reads a payload of stacks.
pub fn stacks(payload: &[u8]) -> Result<(), &'static str> {
    Table::default().read(payload)
}

/// A file's beginning around a document.
#[must_use]
pub fn around_header(document: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(document.len() as u32).to_le_bytes());
    bytes.extend_from_slice(document);
    bytes.extend_from_slice(&checksum(&[&bytes]).to_le_bytes());
    bytes
}

/// Parses a header document.
pub fn header(document: &[u8]) -> Result<Header, Damage> {
    let bytes = around_header(document);
    let prefix = bytes.first_chunk::<PREFIX>().ok_or(Damage::CutHeader)?;
    let rest = Header::rest(prefix)?;
    Header::parse(prefix, bytes.get(PREFIX..PREFIX + rest).ok_or(Damage::CutHeader)?)
}

/// Makes the magic, the lengths' ends and the checksums of frames right, one frame after the other, as far as it goes.
pub fn repair(frames: &mut [u8]) {
    let mut rest = frames;
    while rest.len() >= FRAME_HEADER {
        let stored = u32::from_le_bytes([rest[8], rest[9], rest[10], rest[11]]) as usize % (1 << 20);
        let stored = stored.min(rest.len() - FRAME_HEADER);
        rest[..4].copy_from_slice(&FRAME_MAGIC);
        rest[8..12].copy_from_slice(&(stored as u32).to_le_bytes());
        let payload = checksum(&[&rest[FRAME_HEADER..FRAME_HEADER + stored]]);
        rest[48..52].copy_from_slice(&payload.to_le_bytes());
        let own = checksum(&[&rest[..FRAME_HEADER - 4]]);
        rest[FRAME_HEADER - 4..FRAME_HEADER].copy_from_slice(&own.to_le_bytes());
        rest = &mut rest[FRAME_HEADER + stored..];
    }
}

//! Kernel stacks in a recording: written with their names before the first event that refers to them, so that it opens
//! anywhere.

use std::sync::{Mutex, PoisonError};

use super::varint::{self, Bytes};
use crate::{
    event::harmless,
    model::Map,
    source::{Frame, Stacks},
};

/// Frames of one stack; the kernel takes no more (`PERF_MAX_STACK_DEPTH`).
const MAX_FRAMES: u64 = 127;
/// Bytes of one symbol: a function, an offset and a module.
const MAX_SYMBOL: u64 = 512;
/// What all stacks of a recording may take in memory. The kernel's table holds 16,384 stacks.
const MAX_MEMORY: usize = 128 << 20;

/// Appends a stack to a frame's payload.
pub fn put(out: &mut Vec<u8>, id: u32, frames: &[Frame]) {
    let frames = &frames[..frames.len().min(MAX_FRAMES as usize)];
    varint::put(out, id.into());
    varint::put(out, frames.len() as u64);
    let mut last = 0;
    for frame in frames {
        varint::put_delta(out, last, frame.addr);
        last = frame.addr;
        let symbol = frame.symbol.as_bytes();
        let symbol = &symbol[..symbol.len().min(MAX_SYMBOL as usize)];
        varint::put(out, symbol.len() as u64);
        out.extend_from_slice(symbol);
    }
}

/// The stacks read so far.
#[derive(Default)]
pub struct Table(Mutex<Known>);

#[derive(Default)]
struct Known {
    stacks: Map<u32, Vec<Frame>>,
    memory: usize,
}

impl Table {
    /// Takes in the stacks of a payload. What is past the bound is left out: those stacks are unknown.
    pub fn read(&self, payload: &[u8]) -> Result<(), &'static str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Bytes(payload);
        while !bytes.is_empty() {
            let (id, frames) = stack(&mut bytes).ok_or("a stack is cut")?;
            let size: usize = frames.iter().map(|frame| size_of::<Frame>() + frame.symbol.capacity()).sum();
            if known.memory + size > MAX_MEMORY {
                continue;
            }
            known.memory += size + size_of::<(u32, Vec<Frame>)>();
            known.stacks.insert(id, frames);
        }
        Ok(())
    }
}

fn stack(bytes: &mut Bytes<'_>) -> Option<(u32, Vec<Frame>)> {
    let id = bytes.small()?;
    let count = bytes.number().filter(|&count| count <= MAX_FRAMES)?;
    let mut frames = Vec::new();
    let mut addr = 0;
    for _ in 0..count {
        addr = bytes.delta(addr)?;
        let len = bytes.number().filter(|&len| len <= MAX_SYMBOL)?;
        let symbol = String::from_utf8_lossy(bytes.take(len as usize)?);
        frames.push(Frame { addr, symbol: harmless(&symbol).into_owned() });
    }
    Some((id, frames))
}

impl Stacks for Table {
    fn frames(&self, id: u32) -> Vec<Frame> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stacks.get(&id).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let frame = |addr, symbol: &str| Frame { addr, symbol: symbol.into() };
        vec![frame(0xffff_ffff_8100_0000, "iommu_report_device_fault+0x5/0x2b0"), frame(0xffff_ffff_c012_3456, "f [m]")]
    }

    #[test]
    fn stacks_come_back_by_their_id() {
        let mut payload = Vec::new();
        put(&mut payload, 7, &frames());
        put(&mut payload, 16_383, &[]);
        let table = Table::default();
        table.read(&payload).unwrap();
        assert_eq!(table.frames(7), frames());
        assert_eq!(table.frames(16_383), []);
        assert_eq!(table.frames(8), []);
    }

    #[test]
    fn a_cut_stack_is_an_error_and_those_before_it_are_known() {
        let mut payload = Vec::new();
        put(&mut payload, 1, &frames());
        let one = payload.len();
        put(&mut payload, 2, &frames());
        for len in one + 1..payload.len() {
            let table = Table::default();
            assert!(table.read(&payload[..len]).is_err());
            assert_eq!((table.frames(1), table.frames(2)), (frames(), vec![]));
        }
    }

    #[test]
    fn a_symbol_cannot_write_to_the_terminal() {
        let mut payload = Vec::new();
        put(&mut payload, 1, &[Frame { addr: 1, symbol: "a\x1b[31mb".into() }]);
        let table = Table::default();
        table.read(&payload).unwrap();
        assert_eq!(table.frames(1)[0].symbol, "a\\u{1b}[31mb");
    }
}

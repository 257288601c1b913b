//! The payload of a frame of events: records of the ring, each told by what differs from the last of its shape.
//!
//! A record's shape is its probe, its phase and the size of its payload. Payloads are taken as 64-bit words; of each,
//! a bit says whether it differs from the same word of the last record of that shape, and the difference follows. Every
//! frame starts anew, so that each can be read without those before it.

use iommu_trace_common::{COMM_LEN, record};
use zerocopy::IntoBytes as _;

use super::varint::{self, Bytes};
use crate::{
    event::{Body, Comm, Event, Phase, ProbeId, Task, decode_body, encode_body},
    model::Map,
};

/// Words of the largest payload.
const MAX_WORDS: usize = 64;
/// Shapes that one frame may have.
const MAX_SHAPES: usize = 4096;
/// Tag of the end of a batch.
const BATCH_END: u64 = 0;
/// Tag of a record whose shape comes first here.
const NEW_SHAPE: u64 = 1;
/// Tags from here on are records of a shape that was told.
const SHAPES: u64 = 2;
/// Added to a phase for records that were lost: their payload is how many.
const LOST: u64 = 2;

/// The last record of a shape.
struct Shape {
    /// As [`key`] has it.
    key: u64,
    words: usize,
    stack: u64,
    last: [u64; MAX_WORDS],
}

impl Shape {
    fn new(key: u64, words: usize) -> Self {
        Shape { key, words, stack: 0, last: [0; MAX_WORDS] }
    }
}

/// Probe, phase and whether it is a loss, in one number.
fn key(event: &Event) -> u64 {
    let lost = if matches!(event.body, Body::Lost { .. }) { LOST } else { 0 };
    (event.probe as u64) << 2 | lost | event.phase as u64
}

/// 0 for none, else one more than the id.
fn folded(stack: Option<u32>) -> u64 {
    stack.map_or(0, |id| u64::from(id) + 1)
}

/// Makes the payload of a frame.
#[derive(Default)]
pub struct Encoder {
    out: Vec<u8>,
    shapes: Vec<Shape>,
    places: Map<(u64, usize), usize>,
    /// Where the shape that a key had last is, by key: most have one only.
    latest: Vec<Option<u16>>,
    tasks: Map<Task, u64>,
    /// The tasks of the last events, the latest first.
    recent: [(Task, u64); 2],
    scratch: Vec<u8>,
    deltas: varint::Line,
    ts: u64,
    /// Events so far.
    pub count: u32,
    /// The first event's time.
    pub first: u64,
    /// The latest.
    pub last: u64,
    /// That of the last batch's end.
    pub upto: u64,
}

impl Encoder {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether there is nothing in it, not even the end of a batch.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Takes an event in.
    pub fn event(&mut self, event: &Event) {
        self.scratch.clear();
        if let Body::Lost { count } = &event.body {
            self.scratch.extend_from_slice(&count.to_le_bytes());
        } else if encode_body(event, &mut self.scratch).is_err() {
            return;
        }
        let words = self.scratch.len().div_ceil(8);
        debug_assert!(self.scratch.len().is_multiple_of(8) && words <= MAX_WORDS, "a record's payload is whole words");
        self.scratch.resize(words * 8, 0);
        let place = self.place(key(event), words);
        self.task(&event.task);
        if self.count == 0 {
            (self.first, self.ts) = (event.ts, event.ts);
        }
        varint::put_delta(&mut self.out, self.ts, event.ts);
        (self.ts, self.last) = (event.ts, self.last.max(event.ts));
        self.count += 1;

        let (shape, deltas) = (&mut self.shapes[place], &mut self.deltas);
        let stack = folded(event.stack);
        varint::put_delta(&mut self.out, shape.stack, stack);
        shape.stack = stack;
        let mut changed = 0u64;
        let (payload, _) = self.scratch.as_chunks::<8>();
        for (at, (word, last)) in payload.iter().zip(&mut shape.last).enumerate() {
            let word = u64::from_ne_bytes(*word);
            if word != *last {
                changed |= 1 << at;
                deltas.put_delta(*last, word);
                *last = word;
            }
        }
        varint::put(&mut self.out, changed);
        deltas.end(&mut self.out);
    }

    /// Tells the shape of the next record, with what it is if it is new; where it is among the shapes.
    fn place(&mut self, key: u64, words: usize) -> usize {
        if let Some(place) = self.latest.get(key as usize).copied().flatten().map(usize::from)
            && self.shapes[place].words == words
        {
            varint::put(&mut self.out, place as u64 + SHAPES);
            return place;
        }
        let place = if let Some(&place) = self.places.get(&(key, words)) {
            varint::put(&mut self.out, place as u64 + SHAPES);
            place
        } else {
            varint::put(&mut self.out, NEW_SHAPE);
            varint::put(&mut self.out, key);
            varint::put(&mut self.out, words as u64);
            self.shapes.push(Shape::new(key, words));
            self.places.insert((key, words), self.shapes.len() - 1);
            self.shapes.len() - 1
        };
        if self.latest.len() <= key as usize {
            self.latest.resize(key as usize + 1, None);
        }
        self.latest[key as usize] = u16::try_from(place).ok();
        place
    }

    fn task(&mut self, task: &Task) {
        let recent = self.recent.iter().position(|(known, place)| *place > 0 && known == task);
        let place = recent.map(|at| self.recent[at].1).or_else(|| self.tasks.get(task).copied());
        if recent != Some(0) {
            self.recent[1] = self.recent[0];
        }
        if let Some(place) = place {
            varint::put(&mut self.out, place);
            self.recent[0] = (*task, place);
            return;
        }
        varint::put(&mut self.out, 0);
        for number in [task.cpu, task.pid, task.tid] {
            varint::put(&mut self.out, number.into());
        }
        self.out.extend_from_slice(&task.comm.0);
        let place = self.tasks.len() as u64 + 1;
        self.tasks.insert(*task, place);
        self.recent[0] = (*task, place);
    }

    /// A batch of the source ends: no later event is older than `upto`.
    pub fn batch_end(&mut self, upto: u64) {
        varint::put(&mut self.out, BATCH_END);
        varint::put_delta(&mut self.out, self.upto, upto);
        self.upto = upto;
    }

    /// The payload; the next one starts anew.
    pub fn take(&mut self) -> Vec<u8> {
        let out = std::mem::take(&mut self.out);
        *self = Encoder { scratch: std::mem::take(&mut self.scratch), ..Encoder::default() };
        out
    }
}

/// What is in a payload.
#[derive(Debug, PartialEq)]
pub enum Item {
    /// An event.
    Event(Event),
    /// The end of a batch, and its `upto`.
    BatchEnd(u64),
}

/// Reads a payload.
#[derive(Default)]
pub struct Decoder {
    payload: Vec<u8>,
    at: usize,
    shapes: Vec<(Shape, Option<ProbeId>, Phase)>,
    tasks: Vec<Task>,
    ts: u64,
    upto: u64,
}

/// What is wrong with a payload.
pub type Wrong = &'static str;

impl Decoder {
    /// Begins with a payload whose first event has the time `first`.
    pub fn begin(&mut self, payload: Vec<u8>, first: u64) {
        self.payload = payload;
        self.shapes.clear();
        self.tasks.clear();
        (self.at, self.ts, self.upto) = (0, first, 0);
    }

    /// Gives the payload's memory back, to be used again.
    pub fn reclaim(&mut self) -> Vec<u8> {
        self.at = 0;
        std::mem::take(&mut self.payload)
    }

    /// The next item, `None` after the last.
    #[inline]
    pub fn next_item(&mut self) -> Result<Option<Item>, Wrong> {
        let Decoder { payload, at, shapes, tasks, ts, upto } = self;
        let mut bytes = Bytes(&payload[*at..]);
        if bytes.is_empty() {
            return Ok(None);
        }
        const CUT: Wrong = "a record is cut";
        let place = match bytes.number().ok_or(CUT)? {
            BATCH_END => {
                *upto = bytes.delta(*upto).ok_or(CUT)?;
                *at = payload.len() - bytes.0.len();
                return Ok(Some(Item::BatchEnd(*upto)));
            }
            NEW_SHAPE => {
                shapes.push(shape(&mut bytes, shapes.len())?);
                shapes.len() - 1
            }
            told => usize::try_from(told - SHAPES).unwrap_or(usize::MAX),
        };
        let (shape, probe, phase) = shapes.get_mut(place).ok_or("a record's shape was not told")?;
        let task = match bytes.number().ok_or(CUT)? {
            0 => {
                let (cpu, pid, tid) = (bytes.small(), bytes.small(), bytes.small());
                let comm = bytes.take(COMM_LEN).and_then(|comm| <[u8; COMM_LEN]>::try_from(comm).ok());
                let (Some(cpu), Some(pid), Some(tid), Some(comm)) = (cpu, pid, tid, comm) else { return Err(CUT) };
                let task = Task { cpu, pid, tid, comm: Comm::from_kernel(comm) };
                tasks.push(task);
                task
            }
            told => {
                *tasks.get(usize::try_from(told - 1).unwrap_or(usize::MAX)).ok_or("a record's task was not told")?
            }
        };
        *ts = bytes.delta(*ts).ok_or(CUT)?;
        shape.stack = bytes.delta(shape.stack).ok_or(CUT)?;
        let mut changed = bytes.number().ok_or(CUT)?;
        if changed.checked_shr(shape.words as u32).unwrap_or(0) != 0 {
            return Err("a record has more words than its shape");
        }
        while changed != 0 {
            let word = changed.trailing_zeros() as usize;
            changed &= changed - 1;
            shape.last[word] = bytes.delta(shape.last[word]).ok_or(CUT)?;
        }
        let payload_words = &shape.last[..shape.words];
        let probe = probe.ok_or("a record is of a probe that this iommu-trace does not know")?;
        let body = if shape.key & LOST != 0 {
            Body::Lost { count: shape.last[0] }
        } else {
            decode_body(probe, *phase, payload_words.as_bytes()).map_err(|_| "a record does not fit its probe")?
        };
        // The ring has ids in an `i32`, negative for none.
        let stack = shape.stack.checked_sub(1).and_then(|id| i32::try_from(id).ok()).map(i32::cast_unsigned);
        *at = payload.len() - bytes.0.len();
        Ok(Some(Item::Event(Event { ts: *ts, task, probe, phase: *phase, stack, body })))
    }
}

fn shape(bytes: &mut Bytes<'_>, known: usize) -> Result<(Shape, Option<ProbeId>, Phase), Wrong> {
    if known >= MAX_SHAPES {
        return Err("there are too many shapes of records");
    }
    let (Some(key), Some(words)) = (bytes.number(), bytes.number()) else { return Err("a shape is cut") };
    let words = usize::try_from(words).ok().filter(|&words| words <= MAX_WORDS).ok_or("a record is too large")?;
    let probe = u16::try_from(key >> 2).ok().and_then(ProbeId::from_u16);
    let phase = if key & 1 == 0 { Phase::Enter } else { Phase::Exit };
    Ok((Shape::new(key, words), probe, phase))
}

// All payloads are whole words, and fit.
const _: () = assert!(size_of::<record::Attach>() <= MAX_WORDS * 8 && size_of::<record::Attach>().is_multiple_of(8));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::{Req, Script, bond, dev, group, hnd};
    use proptest::prelude::*;

    fn items(payload: Vec<u8>, first: u64) -> Result<Vec<Item>, Wrong> {
        let mut decoder = Decoder::default();
        decoder.begin(payload, first);
        std::iter::from_fn(|| decoder.next_item().transpose()).collect()
    }

    fn script() -> Script {
        let (device, mut script) = (dev(1), Script::new());
        script.by(1).bind(&device).attach(&device, 0, &hnd(1, &device));
        for n in 0..20 {
            let request = Req::new(None, n, 0x1000 * u64::from(n));
            script.by(2 + n % 3).fault(group(n), &device, &request, &hnd(1, &device));
        }
        script.by(1).sva(ProbeId::SvaBind, &device, None, 1, 0).sva_bound(&device, Some(&bond(2, &device)), 1, 1, 0);
        script
    }

    #[test]
    fn events_and_the_ends_of_batches_come_back() {
        let mut events = script().events;
        events.push(Event { body: Body::Lost { count: 1 << 40 }, phase: Phase::Exit, ..events[3].clone() });
        let mut encoder = Encoder::default();
        let mut expected = Vec::new();
        for event in &events {
            encoder.event(event);
            encoder.batch_end(event.ts - 1);
            expected.extend([Item::Event(event.clone()), Item::BatchEnd(event.ts - 1)]);
        }
        assert_eq!((encoder.count as usize, encoder.first), (events.len(), events[0].ts));
        let first = encoder.first;
        let got = items(encoder.take(), first).unwrap();
        for (got, expected) in got.iter().zip(&expected) {
            // The script's returns of iommufd tell more than a record does.
            match (got, expected) {
                (
                    Item::Event(Event { body: Body::Return { ret }, .. }),
                    Item::Event(Event { body: Body::Iommufd(op), .. }),
                ) => {
                    assert_eq!(*ret, op.ret);
                }
                _ => assert_eq!(got, expected),
            }
        }
        assert_eq!(got.len(), expected.len());
        assert!(encoder.is_empty());
    }

    #[test]
    fn a_payload_cut_anywhere_gives_what_is_before_the_cut_and_an_error_or_its_end() {
        let mut encoder = Encoder::default();
        script().events.iter().for_each(|event| encoder.event(event));
        let (first, payload) = (encoder.first, encoder.take());
        let whole = items(payload.clone(), first).unwrap();
        for len in 0..payload.len() {
            let mut decoder = Decoder::default();
            decoder.begin(payload[..len].to_vec(), first);
            let mut at = 0;
            while let Ok(Some(item)) = decoder.next_item() {
                assert_eq!(item, whole[at]);
                at += 1;
            }
            assert!(at < whole.len());
        }
    }

    /// Found by the fuzzer: such an event would not come back from a record of its own.
    #[test]
    fn a_stack_id_that_no_record_can_hold_is_none() {
        let device = dev(1);
        let mut script = Script::new();
        script.by(1).bind(&device);
        let mut encoder = Encoder::default();
        encoder.event(&Event { stack: Some(u32::MAX), ..script.events[0].clone() });
        encoder.event(&Event { stack: Some(i32::MAX.cast_unsigned()), ..script.events[0].clone() });
        let first = encoder.first;
        let stacks: Vec<_> = items(encoder.take(), first)
            .unwrap()
            .into_iter()
            .map(|item| if let Item::Event(event) = item { event.stack } else { None })
            .collect();
        assert_eq!(stacks, [None, Some(i32::MAX.cast_unsigned())]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_payload_or_an_error(payload in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = items(payload, 5);
        }
    }
}

//! A Perfetto trace: a track for each device with its handles' lives, its faults with their stages, and how many are
//! outstanding; a track for each task with its calls; violations and losses as instants.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use prost::Message as _;

use super::{
    lanes::Lanes,
    perfetto_proto::{
        Clock, ClockSnapshot, CounterDescriptor, DebugAnnotation, ThreadDescriptor, Trace, TracePacket,
        TrackDescriptor, TrackEvent,
    },
};
use crate::{
    analysis::{Life, Lives, Observer, pasid},
    event::{Event, Name, Task},
    model::{
        Violation,
        span::{FaultSpan, Span, SpanKind},
    },
    source::SourceInfo,
};

/// Faults and calls that are taken, so that a recording from anyone cannot take all memory; the rest is counted.
const MAX_KEPT: usize = 4 << 20;
/// `TrackEvent.Type`.
const BEGIN: i32 = 1;
const END: i32 = 2;
const INSTANT: i32 = 3;
const COUNTER: i32 = 4;
/// The one writer.
const SEQUENCE: u32 = 1;

/// A call of a task.
struct CallSlice {
    ts: u64,
    end: u64,
    name: String,
    task: Task,
    notes: Vec<DebugAnnotation>,
}

/// A fault, and which task reported it.
struct FaultSlice {
    ts: u64,
    fault: FaultSpan,
    task: Task,
}

/// What a device has.
type OfDevice = (Vec<Life>, Vec<FaultSlice>);

/// Collects what happens.
#[derive(Default)]
pub struct Perfetto {
    lives: Lives,
    faults: Vec<FaultSlice>,
    calls: Vec<CallSlice>,
    instants: Vec<(u64, String, Vec<DebugAnnotation>)>,
    /// What there was no room for.
    pub left_out: u64,
}

impl Observer for Perfetto {
    fn event(&mut self, event: &Event) {
        self.lives.event(event);
    }

    fn span(&mut self, span: &Span) {
        self.lives.span(span);
        if self.faults.len() + self.calls.len() + self.instants.len() >= MAX_KEPT {
            self.left_out += 1;
            return;
        }
        let task = Task { cpu: span.cpu, pid: span.pid, tid: span.tid, comm: span.comm };
        match &span.kind {
            SpanKind::Fault(fault) => self.faults.push(FaultSlice { ts: span.ts, fault: fault.clone(), task }),
            SpanKind::FaultStage(_) => {}
            SpanKind::Lost(lost) => {
                self.instants.push((span.ts, format!("lost: {}", lost.probe), vec![number("count", lost.count)]));
            }
            kind => {
                let (duration, notes) = call(kind);
                let name = kind.name().to_owned();
                self.calls.push(CallSlice { ts: span.ts, end: span.ts.saturating_add(duration), name, task, notes });
            }
        }
    }

    fn violation(&mut self, violation: &Violation) {
        if self.instants.len() >= MAX_KEPT {
            self.left_out += 1;
            return;
        }
        let mut notes = vec![text("severity", violation.severity.name()), text("message", &violation.message)];
        notes.extend(violation.evidence.iter().map(|piece| {
            let told = format!("{} at {} by {}/{}", piece.probe.function(), piece.ts, piece.task.comm, piece.task.tid);
            text(piece.what, &told)
        }));
        self.instants.push((violation.ts, format!("violation: {}", violation.rule.slug()), notes));
    }
}

fn text(name: &str, value: &str) -> DebugAnnotation {
    DebugAnnotation { name: Some(name.into()), string_value: Some(value.into()), ..DebugAnnotation::default() }
}

fn number(name: &str, value: u64) -> DebugAnnotation {
    DebugAnnotation { name: Some(name.into()), int_value: Some(value as i64), ..DebugAnnotation::default() }
}

fn pointer(name: &str, value: u64) -> DebugAnnotation {
    DebugAnnotation { name: Some(name.into()), pointer_value: Some(value), ..DebugAnnotation::default() }
}

/// How long a call took, and its fields as its JSON form has them.
fn call(kind: &SpanKind) -> (u64, Vec<DebugAnnotation>) {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(kind) else { return (0, Vec::new()) };
    let duration = fields.get("duration_ns").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let notes = fields
        .into_iter()
        .filter(|(name, value)| name != "event" && name != "duration_ns" && !value.is_null())
        .map(|(name, value)| match value {
            serde_json::Value::Number(n) if n.is_i64() => {
                DebugAnnotation { name: Some(name), int_value: n.as_i64(), ..DebugAnnotation::default() }
            }
            serde_json::Value::String(value) => {
                DebugAnnotation { name: Some(name), string_value: Some(value), ..DebugAnnotation::default() }
            }
            other => text(&name, &other.to_string()),
        })
        .collect();
    (duration, notes)
}

/// When a fault was over, as far as that was seen.
fn fault_end(fault: &FaultSpan) -> u64 {
    let stages =
        [fault.lookup_ns, fault.device_id_ns, fault.handler_ns, fault.delivered_ns, fault.response_ns, fault.freed_ns];
    stages.into_iter().flatten().max().unwrap_or(0)
}

/// When what became a fault began: with the interrupt, where one brought it.
fn fault_begin(ts: u64, fault: &FaultSpan) -> u64 {
    ts.saturating_sub(fault.interrupt_ns.unwrap_or(0))
}

/// Writes packets one by one.
struct Packets<'a> {
    out: &'a mut dyn Write,
    tracks: u64,
}

impl Packets<'_> {
    fn packet(&mut self, packet: TracePacket) -> io::Result<()> {
        let packet = TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..packet };
        // A file of one packet is a file, and so are several after each other.
        let bytes = Trace { packet: vec![packet] }.encode_to_vec();
        self.out.write_all(&bytes)
    }

    fn track(&mut self, descriptor: TrackDescriptor) -> io::Result<u64> {
        self.tracks += 1;
        let uuid = self.tracks;
        let track_descriptor = Some(TrackDescriptor { uuid: Some(uuid), ..descriptor });
        self.packet(TracePacket { track_descriptor, ..TracePacket::default() })?;
        Ok(uuid)
    }

    fn named(&mut self, name: &str, parent: Option<u64>, rank: i32) -> io::Result<u64> {
        self.track(TrackDescriptor {
            name: Some(name.into()),
            parent_uuid: parent,
            sibling_order_rank: Some(rank),
            child_ordering: Some(3),
            ..TrackDescriptor::default()
        })
    }

    fn event(&mut self, ts: u64, track: u64, event: TrackEvent) -> io::Result<()> {
        let track_event = Some(TrackEvent { track_uuid: Some(track), ..event });
        self.packet(TracePacket { timestamp: Some(ts), track_event, ..TracePacket::default() })
    }

    fn begin(&mut self, ts: u64, track: u64, name: &str, of: &str, notes: Vec<DebugAnnotation>) -> io::Result<()> {
        let (name, categories) = (Some(name.to_owned()), vec![of.to_owned()]);
        let event =
            TrackEvent { r#type: Some(BEGIN), name, categories, debug_annotations: notes, ..TrackEvent::default() };
        self.event(ts, track, event)
    }

    fn end(&mut self, ts: u64, track: u64) -> io::Result<()> {
        self.event(ts, track, TrackEvent { r#type: Some(END), ..TrackEvent::default() })
    }
}

impl Perfetto {
    /// Writes the trace; `upto` is the last time known.
    pub fn write(self, info: &SourceInfo, upto: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut packets = Packets { out, tracks: 0 };
        let wall = info.started_ns.saturating_add_signed(info.epoch_offset_ns);
        // Events have the monotonic clock. The viewer's own is the boot clock: the two are taken as one.
        let clocks = [(6, info.started_ns), (3, info.started_ns), (1, wall)]
            .map(|(id, at)| Clock { clock_id: Some(id), timestamp: Some(at) });
        packets.packet(TracePacket {
            sequence_flags: Some(1),
            clock_snapshot: Some(ClockSnapshot { clocks: clocks.to_vec() }),
            ..TracePacket::default()
        })?;
        self.write_instants(&mut packets)?;
        let Perfetto { lives, mut faults, calls, .. } = self;
        faults.sort_by_key(|slice| (fault_begin(slice.ts, &slice.fault), slice.ts));
        let mut devices: BTreeMap<(Option<u32>, Name), OfDevice> = BTreeMap::new();
        for life in lives.finish() {
            devices.entry((life.group, life.device.unwrap_or_default())).or_default().0.push(life);
        }
        for slice in faults {
            devices.entry((slice.fault.group, slice.fault.device)).or_default().1.push(slice);
        }
        for ((group, device), (lives, faults)) in devices {
            let name = match (group, device.is_empty()) {
                (Some(group), false) => format!("{device} (group {group})"),
                (Some(group), true) => format!("group {group}"),
                (None, _) => device.to_string(),
            };
            let parent = packets.named(&name, None, 1)?;
            write_lives(&mut packets, parent, lives, info.started_ns, upto)?;
            write_faults(&mut packets, parent, &faults)?;
        }
        write_calls(&mut packets, calls)
    }

    fn write_instants(&self, packets: &mut Packets<'_>) -> io::Result<()> {
        if self.instants.is_empty() {
            return Ok(());
        }
        let track = packets.named("violations and losses", None, 0)?;
        for (ts, name, notes) in &self.instants {
            let event = TrackEvent {
                r#type: Some(INSTANT),
                name: Some(name.clone()),
                categories: vec!["violation".into()],
                debug_annotations: notes.clone(),
                ..TrackEvent::default()
            };
            packets.event(*ts, track, event)?;
        }
        Ok(())
    }
}

fn pasid_name(pasid: u32) -> String {
    if pasid == 0 { "RID".to_owned() } else { format!("PASID {pasid}") }
}

fn write_lives(packets: &mut Packets<'_>, parent: u64, lives: Vec<Life>, begin: u64, upto: u64) -> io::Result<()> {
    let mut by_pasid: BTreeMap<u32, Vec<Life>> = BTreeMap::new();
    for life in lives {
        by_pasid.entry(life.pasid).or_default().push(life);
    }
    for (pasid, lives) in by_pasid {
        let (mut lanes, mut tracks) = (Lanes::default(), Vec::new());
        for life in lives {
            let from = life.begin.unwrap_or(begin);
            let to = life.end.unwrap_or(upto).max(from);
            let lane = lanes.place(from, to);
            if lane >= tracks.len() {
                tracks.push(packets.named(&format!("handles, {}", pasid_name(pasid)), Some(parent), 1)?);
            }
            let name = match life.handle {
                Some(handle) => format!("{} handle {:x}", life.owner.name(), handle.0),
                None => format!("{} domain {:x}", life.owner.name(), life.domain.0),
            };
            let mut notes = vec![pointer("domain", life.domain.0), text("domain_type", &life.domain_type.to_string())];
            notes.extend(life.handle.map(|handle| pointer("handle", handle.0)));
            notes.extend(life.device_id.map(|id| number("device_id", id.into())));
            if life.begin.is_none() {
                notes.push(text("begin", "before the trace"));
            }
            if life.end.is_none() {
                notes.push(text("end", "after the trace"));
            }
            packets.begin(from, tracks[lane], &name, "handle", notes)?;
            packets.end(to, tracks[lane])?;
        }
    }
    Ok(())
}

fn write_faults(packets: &mut Packets<'_>, parent: u64, faults: &[FaultSlice]) -> io::Result<()> {
    let mut by_pasid: BTreeMap<u32, (Lanes, Vec<u64>)> = BTreeMap::new();
    let mut changes: Vec<(u64, i64)> = Vec::with_capacity(faults.len() * 2);
    for FaultSlice { ts, fault, task } in faults {
        let pasid = pasid(fault);
        let end = ts.saturating_add(fault_end(fault));
        let begin = fault_begin(*ts, fault);
        changes.extend([(*ts, 1), (ts.saturating_add(fault.response_ns.unwrap_or(fault_end(fault))), -1)]);
        let (lanes, tracks) = by_pasid.entry(pasid).or_default();
        let lane = lanes.place(begin, end);
        if lane >= tracks.len() {
            tracks.push(packets.named(&format!("faults, {}", pasid_name(pasid)), Some(parent), 2)?);
        }
        let track = tracks[lane];
        let response = fault.response.0.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let mut notes = vec![
            pointer("addr", fault.addr),
            number("grpid", fault.grpid.into()),
            number("perm", fault.perm.into()),
            text("response", &response),
            text("task", &format!("{}/{}", task.comm, task.tid)),
        ];
        notes.extend(fault.handle.map(|handle| pointer("handle", handle.0)));
        notes.extend(fault.device_id.map(|id| number("device_id", id.into())));
        if begin < *ts {
            packets.begin(begin, track, "interrupt", "stage", Vec::new())?;
            packets.end(*ts, track)?;
        }
        packets.begin(*ts, track, &format!("fault {:#x}", fault.addr), "fault", notes)?;
        let stages = [
            ("lookup", fault.lookup_ns),
            ("device_id", fault.device_id_ns),
            ("handler", fault.handler_ns),
            ("delivered", fault.delivered_ns),
            ("response", fault.response_ns),
            ("free", fault.freed_ns),
        ];
        let mut from = 0;
        for (name, at) in stages {
            // A stage that was reached before the last, as an early answer is, takes no time of its own.
            let Some(at) = at.filter(|&at| at >= from) else { continue };
            packets.begin(ts.saturating_add(from), track, name, "stage", Vec::new())?;
            packets.end(ts.saturating_add(at), track)?;
            from = at;
        }
        packets.end(end, track)?;
    }
    if faults.is_empty() {
        return Ok(());
    }
    let track = packets.track(TrackDescriptor {
        name: Some("faults outstanding".into()),
        parent_uuid: Some(parent),
        counter: Some(CounterDescriptor { unit: Some(2) }),
        sibling_order_rank: Some(3),
        ..TrackDescriptor::default()
    })?;
    changes.sort_unstable();
    let mut value = 0;
    for (ts, change) in changes {
        value += change;
        let event = TrackEvent { r#type: Some(COUNTER), counter_value: Some(value), ..TrackEvent::default() };
        packets.event(ts, track, event)?;
    }
    Ok(())
}

/// The calls of a thread nest: those that began first and last longest are outside.
fn write_calls(packets: &mut Packets<'_>, mut calls: Vec<CallSlice>) -> io::Result<()> {
    calls.sort_by_key(|slice| (slice.task.tid, slice.ts, std::cmp::Reverse(slice.end)));
    for calls in calls.chunk_by_mut(|a, b| a.task.tid == b.task.tid) {
        let Some(task) = calls.first().map(|slice| slice.task) else { continue };
        let track = packets.track(TrackDescriptor {
            thread: Some(ThreadDescriptor {
                pid: Some(task.pid as i32),
                tid: Some(task.tid.into()),
                thread_name: Some(task.comm.to_string()),
            }),
            ..TrackDescriptor::default()
        })?;
        let mut open: Vec<u64> = Vec::new();
        for slice in calls {
            while let Some(&end) = open.last()
                && end <= slice.ts
            {
                packets.end(end, track)?;
                open.pop();
            }
            // Within another it ends no later, whatever an untrusted recording says.
            let end = open.last().map_or(slice.end, |&outer| slice.end.min(outer));
            packets.begin(slice.ts, track, &slice.name, "call", std::mem::take(&mut slice.notes))?;
            open.push(end);
        }
        while let Some(end) = open.pop() {
            packets.end(end, track)?;
        }
    }
    Ok(())
}

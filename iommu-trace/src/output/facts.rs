//! What a line of text tells of a span: columns that most have, and facts, each with a rank.
//!
//! Facts are pieces of one text, whose memory is used again for each span: a line for each of ten thousand page faults a second is not rare.

use std::fmt::{self, Display, Write as _};

use anstyle::Style;

use super::{
    Palette,
    units::{Duration, Durations, Errno, Size},
};
use crate::{
    event::{Name, Ptr, ResponseCode},
    model::span::{Answerer, ChangeSpan, FaultSpan, Span, SpanKind, Stage},
};

/// The greatest rank.
const LEAST: u8 = 4;

/// One piece of what is told of a span.
pub struct Fact<'a> {
    pub text: &'a str,
    /// Columns that it takes.
    pub width: usize,
    pub style: Style,
}

/// The same, where its text is.
struct Piece {
    end: usize,
    width: usize,
    style: Style,
    rank: u8,
    told: bool,
}

/// The columns that most spans have.
#[derive(Default)]
pub struct Subject {
    pub group: Option<u32>,
    pub device: Option<Name>,
    pub pasid: Slot,
}

#[derive(Default)]
pub enum Slot {
    /// The event is not about a PASID.
    #[default]
    None,
    Rid,
    Pasid(u32),
}

impl Slot {
    fn of_request(pasid: Option<u32>) -> Self {
        pasid.map_or(Slot::Rid, Slot::Pasid)
    }

    fn of_slot(pasid: u32) -> Self {
        if pasid == 0 { Slot::Rid } else { Slot::Pasid(pasid) }
    }
}

/// What is told of a span.
pub struct Facts {
    palette: Palette,
    text: String,
    list: Vec<Piece>,
}

impl Facts {
    /// Nothing yet.
    pub fn new(palette: Palette) -> Self {
        Facts { palette, text: String::new(), list: Vec::new() }
    }

    /// Takes in what is to be told of a span, in place of what is there; the columns that it begins with. `named` gives the times of a
    /// fault their names.
    pub fn take(&mut self, span: &Span, named: bool) -> Subject {
        self.text.clear();
        self.list.clear();
        let palette = self.palette;
        let subject = match &span.kind {
            SpanKind::Attach(change) | SpanKind::Replace(change) | SpanKind::Detach(change) => {
                self.change(change, &span.kind);
                Subject { group: change.group, device: change.device, pasid: Slot::of_slot(change.pasid) }
            }
            SpanKind::Fault(fault) => {
                self.fault(fault, named);
                Subject { group: fault.group, device: Some(fault.device), pasid: Slot::of_request(fault.pasid) }
            }
            SpanKind::FaultStage(stage) => {
                self.add(0, stage.stage.name());
                self.add(0, format_args!("{:#x}", stage.addr));
                self.id(stage.device_id);
                match stage.response {
                    Some(code) => self.response(code),
                    None => self.handle(1, stage.handle),
                }
                if stage.stage != Stage::Report {
                    self.add(0, format_args!("+{}", Duration(stage.since_report_ns)));
                }
                self.add(2, format_args!("prgi {}", stage.grpid));
                Subject { group: stage.group, device: Some(stage.device), pasid: Slot::of_request(stage.pasid) }
            }
            SpanKind::SvaBind(bond) | SpanKind::SvaUnbind(bond) => {
                self.ret(bond.ret);
                self.add(0, format_args!("users {}", bond.users));
                self.handle(0, bond.handle);
                self.add(1, Duration(bond.duration_ns));
                self.add(3, format_args!("mm {:x}", bond.mm.0));
                Subject {
                    group: bond.group,
                    device: Some(bond.device),
                    pasid: bond.pasid.map_or(Slot::None, Slot::Pasid),
                }
            }
            SpanKind::IopfEnable(queue) | SpanKind::IopfDisable(queue) => {
                self.ret(queue.ret);
                self.add(1, format_args!("queue {:x}", queue.queue.0));
                Subject { group: queue.group, device: Some(queue.device), pasid: Slot::None }
            }
            SpanKind::IommufdBind(bound) | SpanKind::IommufdUnbind(bound) => {
                self.ret(bound.ret);
                self.id(bound.device_id);
                self.add(1, Duration(bound.duration_ns));
                Subject { group: bound.group, device: Some(bound.device), pasid: Slot::None }
            }
            SpanKind::FaultQueueDestroy(object) => {
                self.id(object.object_id);
                self.add(1, Duration(object.duration_ns));
                self.add(3, format_args!("object {:x}", object.object.0));
                Subject::default()
            }
            SpanKind::DeviceAdd(device)
            | SpanKind::DeviceRemove(device)
            | SpanKind::ResetPrepare(device)
            | SpanKind::ResetDone(device) => {
                if let Some(ret) = device.ret {
                    self.ret(ret);
                }
                Subject { group: device.group, device: Some(device.device), pasid: Slot::None }
            }
            SpanKind::DomainFree(domain) => {
                self.add(0, domain.domain_type);
                self.add(0, format_args!("domain {:x}", domain.domain.0));
                Subject::default()
            }
            SpanKind::DmaFault(fault) => {
                self.styled(
                    0,
                    palette.bad,
                    format_args!(
                        "{} {:#x}",
                        if fault.access == "unknown" { "access" } else { fault.access },
                        fault.addr
                    ),
                );
                if let Some(reason) = fault.reason {
                    self.add(0, format_args!("reason {reason:#04x}"));
                }
                if let Some(flags) = fault.flags {
                    self.add(0, format_args!("flags {flags:#05x}"));
                }
                if let Some(source) = &fault.source_id {
                    self.add(u8::from(fault.device.is_some()), format_args!("from {source}"));
                }
                if let Some(iommu) = &fault.iommu {
                    self.add(1, iommu);
                }
                Subject { group: fault.group, device: fault.device, pasid: fault.pasid.map_or(Slot::None, Slot::Pasid) }
            }
            SpanKind::Map(dma) | SpanKind::Unmap(dma) => {
                // An unmap returns the bytes that it unmapped.
                if dma.ret < 0 {
                    self.ret(dma.ret);
                }
                self.add(0, format_args!("{:#x}", dma.addr));
                self.add(0, Size(dma.size));
                if matches!(span.kind, SpanKind::Unmap(_)) && dma.ret.unsigned_abs() != dma.size && dma.ret >= 0 {
                    self.styled(0, palette.warn, format_args!("only {}", Size(dma.ret.unsigned_abs())));
                }
                self.add(1, Duration(dma.duration_ns));
                self.add(1, format_args!("domain {:x}", dma.domain.0));
                Subject::default()
            }
            SpanKind::Invalidate(invalidate) => {
                self.ret(invalidate.ret);
                self.add(0, invalidate.kind);
                if invalidate.count != 1 {
                    self.add(0, format_args!("x{}", invalidate.count));
                }
                if invalidate.drain {
                    self.add(0, "drains page requests");
                }
                self.add(1, Duration(invalidate.duration_ns));
                self.add(3, format_args!("iommu {:x}", invalidate.iommu.0));
                Subject::default()
            }
            SpanKind::Flush(flush) => {
                if flush.size == u64::MAX {
                    self.add(0, "all");
                } else {
                    self.add(0, format_args!("{:#x}", flush.addr));
                    self.add(0, Size(flush.size));
                }
                self.add(1, Duration(flush.duration_ns));
                self.add(1, format_args!("domain {:x}", flush.domain.0));
                Subject::default()
            }
            SpanKind::Sum(sum) => {
                self.add(0, format_args!("{} {}", sum.calls, sum.of.name()));
                if let Some(kind) = sum.kind {
                    self.add(0, kind);
                }
                if sum.failed > 0 {
                    self.styled(0, palette.bad, format_args!("{} failed", sum.failed));
                }
                if let Some(bytes) = sum.bytes {
                    self.add(0, Size(bytes));
                }
                if let Some(ns) = sum.duration_ns {
                    self.add(1, format_args!("{} each", Duration(ns / sum.calls.max(1))));
                }
                if let Some(domain) = sum.domain {
                    self.add(1, format_args!("domain {:x}", domain.0));
                }
                if let Some(iommu) = sum.iommu {
                    self.add(1, format_args!("iommu {:x}", iommu.0));
                }
                Subject::default()
            }
            SpanKind::Lost(lost) => {
                self.styled(0, palette.bad, format_args!("{} of {}", lost.count, lost.probe));
                self.add(0, "(see --buffer-size)");
                Subject::default()
            }
        };
        // Sums and losses are nobody's.
        if !matches!(span.kind, SpanKind::Lost(_) | SpanKind::Sum(_)) {
            self.styled(2, palette.dim, format_args!("{}/{}", span.comm, span.pid));
        }
        subject
    }

    /// Chooses which facts are told in so many columns: all of rank 0, others while they fit.
    pub fn choose(&mut self, columns: usize) {
        let always: usize = self.list.iter().filter(|fact| fact.rank == 0).map(|fact| fact.width + 1).sum();
        let mut room = columns.saturating_sub(always);
        for rank in 1..=LEAST {
            for fact in self.list.iter_mut().filter(|fact| fact.rank == rank) {
                // The first that does not fit ends it, so that lines of one kind differ as little as can be.
                let Some(rest) = room.checked_sub(fact.width + 1) else { return };
                room = rest;
                fact.told = true;
            }
        }
    }

    /// What was chosen.
    pub fn chosen(&self) -> impl Iterator<Item = Fact<'_>> {
        let mut from = 0;
        self.list.iter().filter_map(move |&Piece { end, width, style, told, .. }| {
            let text = &self.text[std::mem::replace(&mut from, end)..end];
            told.then_some(Fact { text, width, style })
        })
    }

    fn add(&mut self, rank: u8, text: impl Display) {
        self.styled(rank, Style::new(), text);
    }

    fn styled(&mut self, rank: u8, style: Style, text: impl Display) {
        let from = self.text.len();
        // Writing to a String does not fail.
        let _ = write!(self.text, "{text}");
        let told = &self.text[from..];
        let width = if told.is_ascii() { told.len() } else { told.chars().count() };
        self.list.push(Piece { end: self.text.len(), width, style, rank, told: rank == 0 });
    }

    fn ret(&mut self, ret: i64) {
        if ret != 0 {
            self.styled(0, self.palette.bad, Errno(ret));
        }
    }

    fn id(&mut self, id: Option<u32>) {
        if let Some(id) = id {
            self.add(0, format_args!("id {id}"));
        }
    }

    fn handle(&mut self, rank: u8, handle: Option<Ptr>) {
        if let Some(handle) = handle {
            self.add(rank, format_args!("handle {:x}", handle.0));
        }
    }

    fn response(&mut self, code: ResponseCode) {
        let style = match code {
            ResponseCode::Success => self.palette.good,
            ResponseCode::Invalid => self.palette.warn,
            ResponseCode::Failure | ResponseCode::Other(_) => self.palette.bad,
        };
        self.styled(0, style, code);
    }

    fn change(&mut self, change: &ChangeSpan, kind: &SpanKind) {
        self.ret(change.ret);
        self.add(0, change.owner.name());
        self.id(change.device_id);
        self.add(0, change.domain_type);
        match (change.old_handle, change.handle) {
            // The arrow of a detach would point to nothing: there `handle` is the one that was in the slot.
            (Some(old), Some(new)) if !matches!(kind, SpanKind::Detach(_)) => {
                self.add(0, format_args!("handle {:x} > {:x}", old.0, new.0));
            }
            (Some(old), None) => self.add(0, format_args!("handle {:x} > none", old.0)),
            (_, handle) => self.handle(0, handle),
        }
        self.add(1, Duration(change.duration_ns));
        self.add(3, format_args!("domain {:x}", change.domain.0));
        self.styled(4, self.palette.dim, change.function);
    }

    fn fault(&mut self, fault: &FaultSpan, named: bool) {
        self.add(0, format_args!("{:#x}", fault.addr));
        self.add(0, Permissions(fault.perm));
        self.id(fault.device_id);
        if let (Some(told), true) = (fault.delivered_id, fault.delivered_id != fault.device_id) {
            let style = if fault.device_id.is_some() { self.palette.bad } else { Style::new() };
            self.styled(0, style, format_args!("told id {told}"));
        }
        if let Some(ret) = fault.ret {
            self.ret(ret);
        }
        if let Some(ns) = fault.interrupt_ns {
            self.add(1, format_args!("irq {}", Duration(ns)));
        }
        let times = [
            ("lookup", fault.lookup_ns),
            ("handler", fault.handler_ns),
            ("read", fault.delivered_ns),
            ("answer", fault.response_ns),
        ];
        if named {
            for (name, ns) in times {
                if let Some(ns) = ns {
                    self.add(0, format_args!("{name} {}", Duration(ns)));
                }
            }
        } else if let Some(told) = Durations::of(&times.map(|(_, ns)| ns)) {
            self.add(0, told);
        }
        match fault.response.0 {
            Some(code) => self.response(code),
            // It is answered with the last of its group.
            None if !fault.last => self.styled(0, self.palette.dim, "partial"),
            None if !fault.complete => self.styled(0, self.palette.warn, "outstanding"),
            None => self.styled(0, self.palette.bad, "no answer"),
        }
        if let Some(by) = fault.answered_by {
            match by {
                Answerer::User => {}
                Answerer::Handler => self.add(1, "(by its handler)"),
                Answerer::Automatic => self.styled(0, self.palette.warn, "(by detach)"),
                Answerer::QueueDestroy => self.styled(0, self.palette.warn, "(by destroy)"),
                Answerer::QueueRemove => self.styled(0, self.palette.warn, "(by removal)"),
                Answerer::Report => self.styled(0, self.palette.warn, "(by report)"),
            }
        }
        if let Some(requests) = fault.requests.filter(|&requests| requests > 1) {
            self.add(1, format_args!("{requests} requests"));
        }
        self.add(3, format_args!("prgi {}", fault.grpid));
        self.handle(3, fault.handle);
        if let Some(freed) = fault.freed_ns {
            self.add(4, format_args!("freed {}", Duration(freed)));
        }
    }
}

/// `IOMMU_FAULT_PERM_*` as letters: read, write, exec, privileged; `-` for none.
struct Permissions(u32);

impl Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_any = false;
        for (bit, letter) in [(1, 'r'), (2, 'w'), (4, 'x'), (8, 'p')] {
            if self.0 & bit != 0 {
                is_any = true;
                f.write_char(letter)?;
            }
        }
        if is_any { Ok(()) } else { f.write_char('-') }
    }
}

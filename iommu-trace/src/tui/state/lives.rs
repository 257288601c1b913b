//! Attach handles and bare domains through their lives: who sits where, since when, and who sat there.

use std::collections::{HashMap, VecDeque};

use crate::{
    event::{Comm, DomainType, Name, ProbeId, Ptr},
    model::{
        Attachment,
        span::{ChangeSpan, FaultSpan, Owner, Span, SpanKind, SvaSpan},
    },
};

use super::bins::Bins;

/// Lives that go on at once and are shown; more are counted.
const MAX_LIVE: usize = 1 << 16;
/// Lives that are over and remembered.
const MAX_GONE: usize = 1 << 11;
/// The times of a life's last faults.
const MAX_MARKS: usize = 64;

/// A group's number and a PASID (0 is the RID).
pub type Place = (Option<u32>, u32);

/// How and when something began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When the call returned.
    pub ts: u64,
    /// How long it took.
    pub took: u64,
    /// `attach`, `replace` or `detach`.
    pub how: &'static str,
    /// The kernel function.
    pub function: &'static str,
    /// The process.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
    /// The stack's id in the source's table.
    pub stack: Option<u32>,
}

impl Moment {
    fn new(span: &Span, change: &ChangeSpan) -> Self {
        Moment {
            ts: span.ts.saturating_add(change.duration_ns),
            took: change.duration_ns,
            how: span.kind.name(),
            function: change.function,
            pid: span.pid,
            comm: span.comm,
            stack: span.stack,
        }
    }
}

/// One attachment from its attach to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// Its number, in the order in which lives became known.
    pub id: u64,
    /// Where.
    pub place: Place,
    /// The device, where it is known.
    pub device: Option<Name>,
    /// The handle; `None` for a bare domain.
    pub handle: Option<Ptr>,
    /// The domain.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// Who attached it.
    pub owner: Owner,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// Its attach; `None` when that was before the trace.
    pub born: Option<Moment>,
    /// Its end.
    pub gone: Option<Moment>,
    /// Users of an SVA bond, after its last bind or unbind.
    pub users: Option<u32>,
    /// Faults that found it.
    pub faults: u64,
    /// When the last of them was reported.
    pub last_fault: Option<u64>,
    /// Report to handle.
    pub lookup: Bins,
    /// Report to response.
    pub response: Bins,
    /// When its last faults were reported.
    pub marks: VecDeque<u64>,
}

impl Life {
    /// Whether it had begun, and was not over, at a time.
    #[must_use]
    pub fn is_at(&self, at: u64) -> bool {
        self.born.is_none_or(|born| born.ts <= at) && self.gone.is_none_or(|gone| gone.ts > at)
    }

    /// How long it has lasted by then; `None` when it began before the trace.
    #[must_use]
    pub fn age(&self, at: u64) -> Option<u64> {
        let end = self.gone.map_or(at, |gone| gone.ts.min(at));
        self.born.map(|born| end.saturating_sub(born.ts))
    }
}

/// All lives.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    live: HashMap<Place, Life>,
    by_handle: HashMap<Ptr, Place>,
    gone: VecDeque<Life>,
    numbers: u64,
    /// Lives that found no room.
    pub left_out: u64,
}

impl Lives {
    /// Those that go on, in no order.
    pub fn live(&self) -> impl Iterator<Item = &Life> {
        self.live.values()
    }

    /// Those that are over and remembered, the latest last.
    #[must_use]
    pub fn gone(&self) -> impl DoubleEndedIterator<Item = &Life> {
        self.gone.iter()
    }

    /// A life by its number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Life> {
        self.live.values().find(|life| life.id == id).or_else(|| self.gone.iter().rev().find(|life| life.id == id))
    }

    /// Something was attached before the trace.
    pub fn found(&mut self, place: Place, held: &Attachment, device: Option<Name>, users: Option<u32>) {
        if self.live.get(&place).is_some_and(|life| life.handle == held.handle && life.domain == held.domain) {
            return;
        }
        self.begin(Life {
            id: 0,
            place,
            device,
            handle: held.handle,
            domain: held.domain,
            domain_type: held.domain_type,
            owner: held.owner,
            device_id: held.device_id,
            born: None,
            gone: None,
            users,
            faults: 0,
            last_fault: None,
            lookup: Bins::default(),
            response: Bins::default(),
            marks: VecDeque::new(),
        });
    }

    /// Takes note of what happened.
    pub fn take(&mut self, span: &Span) {
        match &span.kind {
            SpanKind::Attach(change) | SpanKind::Replace(change) if change.ret == 0 => self.attached(span, change),
            SpanKind::Detach(change) if change.ret == 0 => {
                self.end((change.group, change.pasid), Moment::new(span, change));
            }
            SpanKind::SvaBind(bond) | SpanKind::SvaUnbind(bond) if bond.ret == 0 => self.bond(bond),
            SpanKind::Fault(fault) => self.fault(span.ts, fault),
            _ => {}
        }
    }

    fn attached(&mut self, span: &Span, change: &ChangeSpan) {
        let place = (change.group, change.pasid);
        let moment = Moment::new(span, change);
        // The core moves a group between its own domains as it likes: that is the group's state, nobody's attachment.
        if change.function == ProbeId::SetDomain.function() {
            return;
        }
        self.end(place, moment);
        self.begin(Life {
            id: 0,
            place,
            device: change.device,
            handle: change.handle,
            domain: change.domain,
            domain_type: change.domain_type,
            owner: change.owner,
            device_id: change.device_id,
            born: Some(moment),
            gone: None,
            users: (change.owner == Owner::Sva).then_some(1),
            faults: 0,
            last_fault: None,
            lookup: Bins::default(),
            response: Bins::default(),
            marks: VecDeque::new(),
        });
    }

    fn begin(&mut self, life: Life) {
        if self.live.len() >= MAX_LIVE && !self.live.contains_key(&life.place) {
            self.left_out += 1;
            return;
        }
        self.numbers += 1;
        if let Some(handle) = life.handle {
            self.by_handle.insert(handle, life.place);
        }
        self.live.insert(life.place, Life { id: self.numbers, ..life });
    }

    fn end(&mut self, place: Place, moment: Moment) {
        let Some(mut life) = self.live.remove(&place) else { return };
        if let Some(handle) = life.handle.filter(|handle| self.by_handle.get(handle) == Some(&place)) {
            self.by_handle.remove(&handle);
        }
        life.gone = Some(moment);
        self.gone.push_back(life);
        if self.gone.len() > MAX_GONE {
            self.gone.pop_front();
        }
    }

    fn by_handle(&mut self, handle: Option<Ptr>) -> Option<&mut Life> {
        let handle = handle?;
        match self.by_handle.get(&handle) {
            Some(place) => self.live.get_mut(place),
            // A fault may be told after its handle has gone.
            None => self.gone.iter_mut().rev().find(|life| life.handle == Some(handle)),
        }
    }

    fn bond(&mut self, bond: &SvaSpan) {
        if let Some(life) = self.by_handle(bond.handle) {
            life.users = Some(bond.users);
        }
    }

    fn fault(&mut self, ts: u64, fault: &FaultSpan) {
        let Some(life) = self.by_handle(fault.handle) else { return };
        life.faults += 1;
        life.last_fault = life.last_fault.max(Some(ts));
        if let Some(ns) = fault.lookup_ns {
            life.lookup.record(ns);
        }
        if let Some(ns) = fault.response_ns {
            life.response.record(ns);
        }
        life.marks.push_back(ts);
        if life.marks.len() > MAX_MARKS {
            life.marks.pop_front();
        }
    }
}

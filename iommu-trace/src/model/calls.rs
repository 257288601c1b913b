//! Which kernel functions each thread is in: what an inner event belongs to.
//!
//! An entry pushes, a return pops down to its own function. None of these functions calls itself, so an entry of one
//! that is open already means that its return was lost: what is above it is dropped.

use super::{
    Evidence,
    faults::FaultId,
    table::{Id, Map},
};
use crate::event::{Change, DeviceRef, DomainType, Event, IommufdOp, ObjectOp, Phase, ProbeId, Ptr, SvaOp, Task};

/// Threads with calls; past it the idle ones are forgotten.
const MAX_THREADS: usize = 1 << 14;
/// Calls open on one thread; the deepest real nesting is five.
const MAX_DEPTH: usize = 16;

/// A call that has not returned.
#[derive(Clone, Debug)]
pub struct Call {
    /// The function.
    pub probe: ProbeId,
    /// When it was entered.
    pub ts: u64,
    /// Where it was entered.
    pub task: Task,
    /// Its stack.
    pub stack: Option<u32>,
    /// What it is about.
    pub about: About,
}

impl Call {
    /// The call that an entry begins.
    pub fn new(event: &Event, about: About) -> Self {
        Call { probe: event.probe, ts: event.ts, task: event.task, stack: event.stack, about }
    }

    /// Its entry, as a piece of evidence.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            ts: self.ts,
            what: "entry",
            probe: self.probe,
            phase: Phase::Enter,
            task: self.task,
            stack: self.stack,
        }
    }
}

/// What an open call is about. What is rare and large is boxed: calls are moved for each page fault.
#[derive(Clone, Debug)]
pub enum About {
    /// A change of an attachment.
    Change(Box<OpenChange>),
    /// A report.
    Report(FaultId),
    /// A read or write of a fault file.
    File,
    /// A device leaves its fault queue.
    Queue(Ptr),
    /// iommufd cleans up.
    Object(ObjectOp),
    /// iommufd and a device, and the handle that was taken out of its slot inside.
    Iommufd(Box<IommufdOp>, Option<Ptr>),
    /// A bond.
    Sva(Box<SvaOp>),
    /// A reset.
    Device(Box<DeviceRef>),
}

/// A domain that a group was given, and its type.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// The domain.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
}

/// A change that has not returned.
#[derive(Clone, Debug)]
pub struct OpenChange {
    /// What the entry saw.
    pub change: Change,
    /// Whether it is inside another change, of which it is a part.
    pub nested: bool,
    /// The domain that the group was given inside it, once that returned.
    pub inner: Option<Inner>,
    /// The number of the life that its handle begins.
    pub number: Option<u32>,
}

#[derive(Debug, Default)]
struct Thread {
    calls: Vec<Call>,
}

/// The open calls of every thread.
#[derive(Debug, Default)]
pub struct Calls {
    threads: Map<u32, Thread>,
    reads: usize,
    dropped: Vec<Call>,
}

impl Calls {
    /// A function was entered. Calls that can only be there because their return was lost come out of
    /// [`Calls::take_dropped`]. False when there was no room for the thread.
    pub fn enter(&mut self, call: Call) -> bool {
        let tid = call.task.tid;
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&tid) {
            self.threads.retain(|_, thread| !thread.calls.is_empty());
            if self.threads.len() >= MAX_THREADS {
                return false;
            }
        }
        let calls = &mut self.threads.entry(tid).or_default().calls;
        let keep = if is_outermost(call.probe) || calls.len() >= MAX_DEPTH {
            0
        } else {
            calls.iter().position(|open| open.probe == call.probe).unwrap_or(calls.len())
        };
        self.reads -= calls[keep..].iter().filter(|open| open.probe == ProbeId::FaultRead).count();
        self.dropped.extend(calls.drain(keep..));
        self.reads += usize::from(call.probe == ProbeId::FaultRead);
        calls.push(call);
        true
    }

    /// A function returned: its call, `None` when its entry was not seen.
    pub fn leave(&mut self, tid: u32, probe: ProbeId) -> Option<Call> {
        let calls = &mut self.threads.get_mut(&tid)?.calls;
        let at = calls.iter().rposition(|open| open.probe == probe)?;
        self.reads -= calls[at..].iter().filter(|open| open.probe == ProbeId::FaultRead).count();
        let mut left = calls.drain(at..);
        let call = left.next();
        self.dropped.extend(left);
        call
    }

    /// The calls whose returns were lost, as found by the last [`Calls::enter`] or [`Calls::leave`].
    pub fn take_dropped(&mut self) -> Option<Call> {
        self.dropped.pop()
    }

    /// The open calls of a thread, the outermost first.
    pub fn of(&self, tid: u32) -> &[Call] {
        self.threads.get(&tid).map_or(&[], |thread| &thread.calls)
    }

    /// The open calls of every thread, in no order of threads.
    pub fn all(&self) -> impl Iterator<Item = &Call> {
        self.threads.values().flat_map(|thread| &thread.calls)
    }

    /// The innermost open call of a thread.
    pub fn top(&self, tid: u32) -> Option<&Call> {
        self.of(tid).last()
    }

    /// The innermost open call of a thread, to be changed.
    pub fn top_mut(&mut self, tid: u32) -> Option<&mut Call> {
        self.threads.get_mut(&tid)?.calls.last_mut()
    }

    /// The innermost open call of a thread that `wanted` takes.
    pub fn find<T>(&self, tid: u32, wanted: impl FnMut(&Call) -> Option<T>) -> Option<T> {
        self.of(tid).iter().rev().find_map(wanted)
    }

    /// The report that a thread is in.
    pub fn report(&self, tid: u32) -> Option<Id> {
        self.find(tid, |call| match call.about {
            About::Report(fault) => Some(fault),
            _ => None,
        })
    }

    /// iommufd's call on one of its devices that a thread is in.
    pub fn iommufd(&self, tid: u32) -> Option<&IommufdOp> {
        self.of(tid).iter().rev().find_map(|call| match &call.about {
            About::Iommufd(op, _) => Some(&**op),
            _ => None,
        })
    }

    /// iommufd's call that a thread is in takes a handle out of its slot. False when it is in none.
    pub fn iommufd_takes(&mut self, tid: u32, handle: Ptr) -> bool {
        let Some(thread) = self.threads.get_mut(&tid) else { return false };
        thread.calls.iter_mut().rev().any(|call| match &mut call.about {
            About::Iommufd(_, taken) => {
                *taken = Some(handle);
                true
            }
            _ => false,
        })
    }

    /// Whether a thread binds or unbinds an address space.
    pub fn in_sva(&self, tid: u32) -> bool {
        self.of(tid).iter().any(|call| matches!(call.about, About::Sva(_)))
    }

    /// Whether some thread is reading a fault file.
    pub fn reading(&self) -> bool {
        self.reads > 0
    }
}

/// Functions that only a system call enters, never another of the probed functions.
fn is_outermost(probe: ProbeId) -> bool {
    matches!(
        probe,
        ProbeId::FaultRead
            | ProbeId::FaultWrite
            | ProbeId::IommufdBind
            | ProbeId::IommufdAttach
            | ProbeId::IommufdReplace
            | ProbeId::IommufdDetach
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(tid: u32, probe: ProbeId) -> Call {
        Call { probe, ts: 0, task: Task { tid, ..Task::default() }, stack: None, about: About::File }
    }

    #[test]
    fn a_return_closes_what_its_callees_left_open() {
        let mut calls = Calls::default();
        calls.enter(call(1, ProbeId::AttachGroupHandle));
        calls.enter(call(1, ProbeId::SetDomain));
        assert!(calls.leave(1, ProbeId::AttachGroupHandle).is_some());
        assert_eq!(calls.take_dropped().map(|call| call.probe), Some(ProbeId::SetDomain));
        assert!(calls.of(1).is_empty());
    }

    #[test]
    fn an_entry_of_an_open_function_means_its_return_was_lost() {
        let mut calls = Calls::default();
        calls.enter(call(1, ProbeId::ReportDeviceFault));
        calls.enter(call(1, ProbeId::ReportDeviceFault));
        assert_eq!(calls.of(1).len(), 1);
        assert!(calls.take_dropped().is_some());
    }

    #[test]
    fn a_system_call_begins_anew() {
        let mut calls = Calls::default();
        calls.enter(call(1, ProbeId::AttachGroupHandle));
        calls.enter(call(1, ProbeId::FaultRead));
        assert_eq!(calls.of(1).len(), 1);
        assert!(calls.reading());
        calls.leave(1, ProbeId::FaultRead);
        assert!(!calls.reading());
    }

    #[test]
    fn idle_threads_are_forgotten() {
        let mut calls = Calls::default();
        for tid in 0..3 * MAX_THREADS as u32 {
            assert!(calls.enter(call(tid, ProbeId::FaultWrite)));
            calls.leave(tid, ProbeId::FaultWrite);
        }
        assert!(calls.threads.len() <= MAX_THREADS);
    }
}

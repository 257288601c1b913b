//! What is going on at this moment: changes that have not returned, faults that are not over.

use super::{
    Model,
    calls::About,
    changes::{Deed, is_pasid},
    span::{Span, SpanKind},
};
use crate::event::{Name, Ptr, Task};

/// An attach, replace or detach that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changing {
    /// When it was entered.
    pub ts: u64,
    /// `attach`, `replace` or `detach`.
    pub what: &'static str,
    /// The kernel function.
    pub function: &'static str,
    /// The group's number.
    pub group: Option<u32>,
    /// The device, where one was given.
    pub device: Option<Name>,
    /// 0 is the RID.
    pub pasid: u32,
    /// The handle given.
    pub handle: Option<Ptr>,
    /// By whom.
    pub task: Task,
}

impl Model {
    /// Attaches, replaces and detaches that have not returned; of nested calls the outermost.
    pub fn changing(&self) -> impl Iterator<Item = Changing> {
        self.calls.all().filter_map(|call| {
            let About::Change(open) = &call.about else { return None };
            let deed = Deed::of(call.probe).filter(|_| !open.nested)?;
            let change = &open.change;
            Some(Changing {
                ts: call.ts,
                what: deed.name(),
                function: call.probe.function(),
                group: change.device.group_id,
                device: Some(change.device.name).filter(|name| !name.is_empty()),
                pasid: if is_pasid(call.probe) { change.pasid } else { 0 },
                handle: change.handle.ptr.some(),
                task: call.task,
            })
        })
    }

    /// Faults that are not over, as far as they have come: those that wait for their answer first, the oldest of them
    /// before the others.
    pub fn faults_under_way(&self) -> impl Iterator<Item = Span> {
        self.faults
            .under_way()
            .map(|fault| Span::new(fault.ts, SpanKind::Fault(fault.span(false)), &fault.task, fault.stack))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::ProbeId,
        model::{
            ModelOptions,
            testing::{By, Req, Script, dev, group, hnd, kernel_7_3},
        },
    };

    #[test]
    fn a_change_is_under_way_from_its_entry_to_its_return() {
        let (device, mut script) = (dev(1), Script::new());
        let handle = hnd(1, &device);
        let at = script.now;
        script.by(7).change(ProbeId::AttachGroupHandle, By::handle_change(&device, 0, &handle));
        let open: Vec<_> = script.model(kernel_7_3(), ModelOptions::default()).0.changing().collect();
        assert_eq!(open.len(), 1);
        assert_eq!((open[0].ts, open[0].what, open[0].group, open[0].pasid), (at, "attach", Some(1), 0));
        script.by(7).ret(ProbeId::AttachGroupHandle, 0);
        assert_eq!(script.model(kernel_7_3(), ModelOptions::default()).0.changing().count(), 0);
    }

    #[test]
    fn a_fault_is_under_way_until_its_group_is_freed() {
        let (device, mut script) = (dev(1), Script::new());
        let (handle, request) = (hnd(1, &device), Req::new(None, 3, 0x1000));
        script.by(7).attach(&device, 0, &handle);
        script.by(8).fault(group(1), &device, &request, &handle);
        let faults: Vec<_> = script.model(kernel_7_3(), ModelOptions::default()).0.faults_under_way().collect();
        assert_eq!(faults.len(), 1);
        assert!(matches!(&faults[0].kind, SpanKind::Fault(fault) if fault.addr == 0x1000 && !fault.complete));
        script.by(9).read(device.id, &request, 1).write(group(1), &device, &request, &handle, 0);
        assert_eq!(script.model(kernel_7_3(), ModelOptions::default()).0.faults_under_way().count(), 0);
    }
}

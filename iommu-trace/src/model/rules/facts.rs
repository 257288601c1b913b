//! What a rule is shown: the event, and what the model has made of it so far.

use crate::{
    event::{Change, Event, IommufdOp, Lookup, Name},
    model::{
        Doubt, Evidence, Model, Subject,
        calls::{Call, OpenChange},
        changes::Deed,
        faults::{Fault, FaultId},
        mirror::{Attachment, Slot, SlotKey},
    },
};

/// A change has returned and is not yet applied.
#[derive(Debug)]
pub struct Changed<'a> {
    /// The return.
    pub event: &'a Event,
    /// The call.
    pub call: &'a Call,
    /// What its entry saw, and what happened inside.
    pub open: &'a OpenChange,
    /// What it does.
    pub deed: Deed,
    /// To which slot.
    pub key: SlotKey,
    /// The slot before it, the call still open.
    pub slot: Slot,
    /// What it puts there.
    pub made: Attachment,
    /// 0 or the error.
    pub ret: i64,
}

impl Changed<'_> {
    /// What its entry saw.
    pub fn change(&self) -> &Change {
        &self.open.change
    }

    /// What it is about.
    pub fn subject(&self, model: &Model) -> Subject {
        Subject {
            group: model.mirror.group_id(&self.open.change.device),
            device: named(model.mirror.name(self.made.device)),
            pasid: Some(self.key.pasid),
            handle: self.made.handle,
            domain: self.open.change.domain.some(),
            device_id: self.made.device_id,
            ..Subject::default()
        }
    }

    /// Whether it ran at once with another change of the slot, so that their order is not known.
    pub fn overlap(&self) -> Option<Doubt> {
        (self.slot.overlap || self.slot.open > 1).then_some(Doubt::Overlap)
    }

    /// Its entry and its return.
    pub fn evidence(&self) -> [Option<Evidence>; 2] {
        [Some(self.call.evidence()), Some(Evidence::of(self.event, "return"))]
    }
}

/// A look-up has returned.
#[derive(Debug)]
pub struct LookedUp<'a> {
    /// The return.
    pub event: &'a Event,
    /// What it searched and found.
    pub lookup: &'a Lookup,
    /// It was made after this; `None` where that is not known.
    pub from: Option<u64>,
    /// The fault it was made for.
    pub fault: Option<FaultId>,
    /// The slot that was searched, as the mirror has it.
    pub slot: Slot,
}

impl LookedUp<'_> {
    /// The slot that was searched.
    pub fn key(&self) -> SlotKey {
        SlotKey { group: self.lookup.group, pasid: self.lookup.pasid }
    }

    /// What it is about.
    pub fn subject(&self, model: &Model) -> Subject {
        let found = &self.lookup.handle;
        let fault = self.fault.and_then(|fault| model.faults.get(fault));
        Subject {
            group: self.lookup.group_id,
            device: fault.and_then(|fault| named(fault.report.device.name)),
            pasid: Some(self.lookup.pasid),
            handle: found.ptr.some(),
            domain: found.domain.some(),
            device_id: found.device_id,
            grpid: fault.map(|fault| fault.report.grpid),
            ..Subject::default()
        }
    }
}

/// What happens to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A handler is entered.
    Handled,
    /// User space is told.
    Delivered,
    /// The device is answered.
    Answered,
}

impl Touch {
    /// In a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Touch::Handled => "handled",
            Touch::Delivered => "delivered",
            Touch::Answered => "answered",
        }
    }
}

/// A fault is handled, delivered or answered.
#[derive(Debug)]
pub struct Touched<'a> {
    /// The event.
    pub event: &'a Event,
    /// The fault.
    pub fault: &'a Fault,
    /// What happens to it.
    pub touch: Touch,
    /// It happened after this: a delivery is told when its `read` returns.
    pub began: u64,
    /// The domain of the group's handle, where the probe followed it.
    pub domain: crate::event::Ptr,
}

/// A call of iommufd on one of its devices has returned.
#[derive(Debug)]
pub struct Called<'a> {
    /// The return.
    pub event: &'a Event,
    /// The call.
    pub call: &'a Call,
    /// What its entry saw.
    pub op: &'a IommufdOp,
    /// 0 or the error.
    pub ret: i64,
}

/// A name, unless it is empty.
pub fn named(name: Name) -> Option<Name> {
    (!name.is_empty()).then_some(name)
}

/// What a rule about a fault is about.
pub fn of_fault(fault: &Fault) -> Subject {
    Subject {
        group: fault.group_id,
        device: named(fault.report.device.name),
        pasid: Some(fault.report.pasid().unwrap_or(0)),
        handle: fault.handle,
        device_id: fault.device_id,
        fault_group: fault.group,
        grpid: Some(fault.report.grpid),
        ..Subject::default()
    }
}

/// A slot, in a sentence.
pub fn place(group: Option<u32>, pasid: u32) -> String {
    let group = group.map_or_else(|| "an unknown group".to_owned(), |group| format!("group {group}"));
    if pasid == 0 { format!("{group}, RID") } else { format!("{group}, PASID {pasid}") }
}

/// What is in a slot, in a sentence.
pub fn content(attachment: &Attachment) -> String {
    match attachment.handle {
        Some(handle) => format!("handle {handle}"),
        None => format!("domain {}", attachment.domain),
    }
}

//! `iopf-unbalanced`.

use super::{RuleId, facts::named};
use crate::{
    event::{Event, QueueOp},
    model::{Doubt, Evidence, Model, Subject, judge::Breach, mirror::Membership},
};

fn subject(model: &Model, op: &QueueOp) -> Subject {
    Subject { group: model.mirror.group_id(&op.device), device: named(op.device.name), ..Subject::default() }
}

/// A device has joined a fault queue.
pub fn joined(model: &Model, event: &Event, op: &QueueOp) -> Option<Breach> {
    let device = model.mirror.device(op.device.ptr)?;
    let Membership::In(before) = device.queue else { return None };
    let message = format!("{} joined a fault queue while it was in one", op.device.name);
    let breach = Breach::new(RuleId::IopfUnbalanced, before.ts, message, subject(model, op));
    let overlap = (device.leaving > 0).then_some(Doubt::Overlap);
    Some(breach.proven_by([Some(before), Some(Evidence::of(event, "join"))]).unless(overlap))
}

/// A device has left its fault queue.
pub fn left(model: &Model, event: &Event, op: &QueueOp) -> Option<Breach> {
    let device = model.mirror.device(op.device.ptr)?;
    let Membership::Out(before) = device.queue else { return None };
    let message = format!("{} left a fault queue while it was in none", op.device.name);
    let breach = Breach::new(RuleId::IopfUnbalanced, before.ts, message, subject(model, op));
    let overlap = (device.leaving > 1).then_some(Doubt::Overlap);
    Some(breach.proven_by([Some(before), Some(Evidence::of(event, "leave"))]).unless(overlap))
}

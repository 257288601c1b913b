//! `sva-incomplete`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::{Event, SvaOp},
    model::{Evidence, Model, Subject, calls::Call, judge::Breach},
};

pub fn bound(model: &Model, event: &Event, call: &Call, op: &SvaOp) -> Option<Breach> {
    let missing = match (op.handle.device.is_null(), op.handle.domain.is_null()) {
        (false, false) => return None,
        (true, false) => "device",
        (false, true) => "domain",
        (true, true) => "device and domain",
    };
    let subject = Subject {
        group: model.mirror.group_id(&op.device),
        device: named(op.device.name),
        pasid: op.pasid,
        handle: op.handle.ptr.some(),
        ..Subject::default()
    };
    let message = format!(
        "bind returned bond {} at {} without its {missing}",
        op.handle.ptr,
        place(subject.group, op.pasid.unwrap_or(0)),
    );
    let breach = Breach::new(RuleId::SvaIncomplete, call.ts, message, subject);
    Some(breach.proven_by([Some(call.evidence()), Some(Evidence::of(event, "return"))]))
}

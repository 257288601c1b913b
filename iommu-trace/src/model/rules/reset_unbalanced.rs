//! `reset-unbalanced`.

use super::{RuleId, facts::named};
use crate::{
    event::{DeviceRef, Event},
    model::{Doubt, Evidence, Model, Subject, judge::Breach},
};

/// A reset is done, and none was prepared.
pub fn reset_done(model: &Model, event: &Event, device: &DeviceRef) -> Option<Breach> {
    let reset = model.mirror.device(device.ptr)?.reset;
    if reset.depth > 0 {
        return None;
    }
    let message = format!("the reset of {} is done, and none was prepared", device.name);
    let subject = Subject { group: model.mirror.group_id(device), device: named(device.name), ..Subject::default() };
    let beginning = reset.known_since.is_none().then_some(Doubt::Beginning);
    let breach = Breach::new(RuleId::ResetUnbalanced, reset.known_since.unwrap_or(0), message, subject);
    Some(breach.proven_by([reset.prepared, reset.done, Some(Evidence::of(event, "reset done"))]).unless(beginning))
}

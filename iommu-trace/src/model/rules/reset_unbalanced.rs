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

/// A device leaves its group while its reset is prepared: nobody can bring its domains back.
pub fn left_in_reset(model: &Model, event: &Event, device: &DeviceRef) -> Option<Breach> {
    let reset = model.mirror.device(device.ptr)?.reset;
    let prepared = reset.prepared.filter(|_| reset.depth > 0)?;
    let message = format!("{} left its group between the reset's prepare and done", device.name);
    let subject = Subject { group: model.mirror.group_id(device), device: named(device.name), ..Subject::default() };
    let breach = Breach::new(RuleId::ResetUnbalanced, prepared.ts, message, subject);
    Some(breach.proven_by([Some(prepared), Some(Evidence::of(event, "removal of the device"))]))
}

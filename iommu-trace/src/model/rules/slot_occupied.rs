//! `slot-occupied`.

use super::{
    RuleId,
    facts::{Changed, content, place},
};
use crate::model::{Model, changes::Deed, judge::Breach};

pub fn changed(model: &Model, done: &Changed<'_>) -> Option<Breach> {
    if done.deed != Deed::Attach || done.ret != 0 {
        return None;
    }
    let held = done.slot.attachment()?;
    let subject = done.subject(model);
    let message = format!(
        "{} attached {} at {}, where {} was still attached",
        done.call.probe.function(),
        content(&done.made),
        place(subject.group, done.key.pasid),
        content(held),
    );
    let before = held.handle.and_then(|handle| model.mirror.handles.get(&handle)?.attach);
    let breach = Breach::new(RuleId::SlotOccupied, done.slot.known_since, message, subject);
    Some(breach.proven_by([before]).proven_by(done.evidence()).unless(done.overlap()))
}

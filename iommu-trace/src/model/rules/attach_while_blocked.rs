//! `attach-while-blocked`.

use super::{
    RuleId,
    facts::{Changed, content, place},
};
use crate::{
    event::ProbeId,
    model::{
        Doubt, Model,
        changes::{Deed, is_pasid},
        judge::Breach,
    },
};

pub fn changed(model: &Model, done: &Changed<'_>) -> Option<Breach> {
    if done.deed == Deed::Detach || done.ret != 0 || done.call.probe == ProbeId::SetDomain {
        return None;
    }
    // The group has that domain already: there is nothing to attach.
    if !is_pasid(done.call.probe) && done.change().old_domain == done.change().domain {
        return None;
    }
    let blocked = model.mirror.group(done.key.group)?.blocked?;
    let device = model.mirror.device(blocked)?;
    let prepared = device.reset.prepared.filter(|prepared| device.reset.depth > 0 && prepared.ts < done.call.ts)?;
    let subject = done.subject(model);
    let message = format!(
        "{} attached {} at {} between the reset's prepare and done of {}",
        done.call.probe.function(),
        content(&done.made),
        place(subject.group, done.key.pasid),
        device.name,
    );
    // A device without ATS is left alone by prepare; where the kernel does not tell, that is what may have happened.
    let untold = (device.reset.blocks != Some(true)).then_some(Doubt::Unseen(ProbeId::ResetPrepare));
    let breach = Breach::new(RuleId::AttachWhileBlocked, prepared.ts, message, subject);
    Some(breach.proven_by([Some(prepared)]).proven_by(done.evidence()).unless(untold))
}

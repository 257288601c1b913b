//! `visible-before-attach`.

use super::{
    RuleId,
    facts::{Changed, LookedUp, place},
};
use crate::model::{Evidence, Model, Severity, changes::Deed, judge::Breach, mirror::Life};

/// Where the handle is stored before the op, a look-up during the op shows it: lawful there, and what later kernels
/// forbid for its danger. Where it is stored after the op, the attach has only to return.
pub fn looked_up(model: &Model, seen: &LookedUp<'_>) -> Option<Breach> {
    if seen.lookup.ret != 0 {
        return None;
    }
    let ptr = seen.lookup.handle.ptr;
    let handle = model.mirror.handles.get(&ptr).filter(|handle| handle.key == seen.key())?;
    let marks = handle.marks();
    let failed = handle.failed && marks.left.is_some_and(|left| seen.from.is_some_and(|from| left.ts >= from));
    let early = handle.life == Life::Attaching
        && !handle.by_replace
        && !handle.op_done
        && !model.features.store_after_op
        && marks.early.is_none();
    if !early && !failed {
        return None;
    }
    let subject = seen.subject(model);
    let at = place(subject.group, seen.lookup.pasid);
    let message = if failed {
        format!("a look-up at {at} found handle {ptr}, whose attach failed")
    } else {
        format!("a look-up at {at} found handle {ptr}, whose attach is still running")
    };
    let breach = Breach::new(RuleId::VisibleBeforeAttach, handle.known_since, message, subject)
        .with(if failed { Severity::Error } else { Severity::Warning })
        .proven_by([handle.attach, marks.left, Some(Evidence::of(seen.event, "look-up"))]);
    Some(breach)
}

/// The attach fails that a look-up could not wait for.
pub fn changed(model: &Model, done: &Changed<'_>) -> Option<Breach> {
    if done.deed == Deed::Detach || done.ret == 0 {
        return None;
    }
    let ptr = done.made.handle?;
    let handle = model.mirror.handles.get(&ptr).filter(|handle| handle.key == done.key)?;
    if handle.life != Life::Attaching {
        return None;
    }
    let early = handle.marks().early?;
    let subject = done.subject(model);
    let message = format!(
        "the attach of handle {ptr} at {} failed with {}, after a look-up had found the handle",
        place(subject.group, done.key.pasid),
        done.ret,
    );
    let breach = Breach::new(RuleId::VisibleBeforeAttach, handle.known_since, message, subject)
        .with(Severity::Error)
        .proven_by([Some(early)])
        .proven_by(done.evidence());
    Some(breach)
}

//! `handle-reused`.

use super::{
    RuleId,
    facts::{Changed, place},
};
use crate::model::{Doubt, Model, changes::Deed, judge::Breach, mirror::Life};

pub fn changed(model: &Model, done: &Changed<'_>) -> Option<Breach> {
    if done.deed == Deed::Detach || done.ret != 0 {
        return None;
    }
    let ptr = done.made.handle?;
    let handle = model.mirror.handles.get(&ptr)?;
    let subject = done.subject(model);
    let now = place(subject.group, done.key.pasid);
    let other = model.mirror.view(handle.key);
    let message = match handle.life {
        Life::Live if handle.key != done.key => {
            let before = model.mirror.group(handle.key.group).and_then(|group| group.id);
            format!("handle {ptr} was attached at {now} while it is attached at {}", place(before, handle.key.pasid))
        }
        Life::Live => format!("handle {ptr} was attached at {now} again while it is attached there"),
        _ if handle.cleaning => {
            format!("handle {ptr} was attached at {now} while iommufd still answers the faults of its last life")
        }
        _ => return None,
    };
    let overlap = (handle.key != done.key && other.open > 0).then_some(Doubt::Overlap);
    let breach = Breach::new(RuleId::HandleReused, handle.known_since, message, subject);
    Some(
        breach
            .proven_by([handle.attach, handle.marks().left])
            .proven_by(done.evidence())
            .unless(overlap)
            .unless(done.overlap()),
    )
}

//! `sva-users`.

use super::{
    RuleId,
    facts::{named, place},
};
use crate::{
    event::{Event, SvaOp},
    model::{
        Doubt, Evidence, Model, Subject,
        judge::Breach,
        mirror::{Bond, Life},
    },
};

fn breach(model: &Model, bond: &Bond, op: &SvaOp, event: &Event, message: String) -> Breach {
    let subject = Subject {
        group: model.mirror.group_id(&op.device),
        device: named(op.device.name),
        pasid: op.pasid,
        handle: op.handle.ptr.some(),
        domain: op.handle.domain.some(),
        ..Subject::default()
    };
    let what = if event.probe == crate::event::ProbeId::SvaBind { "bind" } else { "unbind" };
    // A bind or unbind that was entered before the trace may still be running.
    let beginning = (event.ts < model.judge.settled).then_some(Doubt::Beginning);
    Breach::new(RuleId::SvaUsers, bond.known_since, message, subject)
        .proven_by([bond.bound, bond.unbound, Some(Evidence::of(event, what))])
        .unless(beginning)
}

/// A bind has returned, and no other bind or unbind is running: `users` is what the calls make it.
pub fn bound(model: &Model, event: &Event, op: &SvaOp, bond: &Bond) -> Option<Breach> {
    if bond.users == op.users || bond.told || bond.known_since == 0 {
        return None;
    }
    let at = place(model.mirror.group_id(&op.device), op.pasid.unwrap_or(0));
    let message =
        format!("bond {} of {at} has {} users, and {} binds of it remain", op.handle.ptr, op.users, bond.users);
    Some(breach(model, bond, op, event, message))
}

/// An unbind is entered, and no other bind or unbind is running.
pub fn unbinding(model: &Model, event: &Event, op: &SvaOp, bond: &Bond) -> Option<Breach> {
    if bond.told || bond.known_since == 0 || (bond.users == op.users && bond.users > 0) {
        return None;
    }
    let at = place(model.mirror.group_id(&op.device), op.pasid.unwrap_or(0));
    let message = if bond.users == 0 {
        format!("bond {} of {at} is unbound once more than it was bound", op.handle.ptr)
    } else {
        format!("bond {} of {at} has {} users, and {} binds of it remain", op.handle.ptr, op.users, bond.users)
    };
    Some(breach(model, bond, op, event, message))
}

/// An unbind has returned, and no other bind or unbind is running: without users, the bond is out of its slot.
pub fn unbound_and_attached(model: &Model, event: &Event, op: &SvaOp, bond: &Bond) -> Option<Breach> {
    if bond.users > 0 || bond.told || bond.known_since == 0 {
        return None;
    }
    let handle = model.mirror.handles.get(&op.handle.ptr)?;
    let slot = model.mirror.view(handle.key);
    if handle.life != Life::Live || !slot.holds(op.handle.ptr) {
        return None;
    }
    let at = place(model.mirror.group_id(&op.device), handle.key.pasid);
    let message = format!("every bind of bond {} of {at} is undone, and it is still attached", op.handle.ptr);
    let overlap = (slot.open > 0).then_some(Doubt::Overlap);
    Some(breach(model, bond, op, event, message).proven_by([handle.attach]).unless(overlap))
}

/// A bond's domain was detached, and more users remain than are leaving.
pub fn detached_with_users(event: &Event, subject: Subject, bond: &Bond) -> Option<Breach> {
    let remain = bond.users.saturating_sub(bond.leaving);
    if remain == 0 || bond.told || bond.known_since == 0 {
        return None;
    }
    let message = format!(
        "bond {} of {} was detached while {remain} user(s) remain",
        subject.handle.unwrap_or_default(),
        place(subject.group, subject.pasid.unwrap_or(0)),
    );
    let breach = Breach::new(RuleId::SvaUsers, bond.known_since, message, subject);
    Some(breach.proven_by([bond.bound, bond.unbound, Some(Evidence::of(event, "detach"))]))
}

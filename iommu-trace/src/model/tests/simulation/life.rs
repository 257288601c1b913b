//! The state as a snapshot reads it.

use super::Sim;
use crate::{
    event::{Body, Event, OwnerHint, Phase, ProbeId, SlotState, SlotWhat, Task},
    model::testing::{BLOCKING, DEFAULT},
};

impl Sim {
    /// What the snapshot of every group tells, at this moment.
    pub fn snapshot(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for group in 0..super::GROUPS {
            let device = self.devices[self.devices_of(group)[0]].dev.device;
            let bound = self.devices_of(group).iter().any(|&n| self.devices[n].bound);
            let state = |what| SlotState { what, device, ..SlotState::default() };
            let mut pieces = vec![
                SlotState { domain: if bound { BLOCKING } else { DEFAULT }, ..state(SlotWhat::Group) },
                SlotState { domain: DEFAULT, ..state(SlotWhat::DefaultDomain) },
            ];
            for (&(at, pasid), slot) in &self.slots {
                let Some(handle) = slot.handle.and_then(|ptr| self.handles.get(&ptr)) else { continue };
                if at != group {
                    continue;
                }
                let users = self.bonds.get(&pasid).map_or(0, |bond| bond.users);
                pieces.push(SlotState {
                    handle: handle.seen,
                    domain: handle.seen.domain,
                    domain_type: handle.seen.domain_type,
                    domain_owner: handle.seen.owner,
                    pasid,
                    users: if handle.seen.owner == OwnerHint::Sva { users } else { 0 },
                    ..state(SlotWhat::Entry)
                });
            }
            pieces.push(state(SlotWhat::End));
            for piece in pieces {
                self.now += 10;
                events.push(Event {
                    ts: self.now,
                    task: Task { tid: 1, ..Task::default() },
                    probe: ProbeId::GroupShowType,
                    phase: Phase::Enter,
                    stack: None,
                    body: Body::Slot(Box::new(piece)),
                });
            }
        }
        events
    }
}

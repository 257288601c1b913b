//! The mirror told as the pieces of a snapshot: with it a recording can begin in the middle of things.

use super::{Content, Device, Mirror};
use crate::{
    event::{Body, DeviceRef, Event, HandleRef, OwnerHint, Phase, ProbeId, Ptr, SlotState, SlotWhat, Task},
    model::span::Owner,
};

impl Mirror {
    /// Whether no slot is being changed: a good moment to begin in the middle of things.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.slots().all(|slot| slot.open == 0)
    }

    /// What it holds, group by group, as the kernel's snapshot would tell it. A group of which not everything is known is
    /// told as one that could not be followed to its end.
    #[must_use]
    pub fn pieces(&self) -> Vec<SlotState> {
        let mut groups: Vec<_> = self.groups().collect();
        groups.sort_by_key(|(ptr, group)| (group.id, *ptr));
        let mut members: Vec<(Ptr, &Device)> = self.devices().collect();
        members.sort_by_key(|(ptr, device)| (device.group, device.name, *ptr));
        let mut pieces = Vec::new();
        for (ptr, group) in groups {
            let of_group = DeviceRef { group: ptr, group_id: group.id, ..DeviceRef::default() };
            let piece = SlotState { device: of_group, ..SlotState::default() };
            let begin = members.partition_point(|(_, device)| device.group < ptr);
            let devices = || members[begin..].iter().take_while(|(_, device)| device.group == ptr);
            let member = |(device, known): &(Ptr, &Device)| DeviceRef { ptr: *device, name: known.name, ..of_group };
            let own = |what, domain, domain_type| SlotState { what, domain, domain_type, ..piece };
            pieces.push(own(SlotWhat::Group, group.domain, group.domain_type));
            pieces.push(own(SlotWhat::DefaultDomain, group.default_domain, group.default_domain_type));
            pieces.extend(devices().map(|known| SlotState { what: SlotWhat::Member, device: member(known), ..piece }));
            let mut complete = group.known_since.is_some();
            // Whether a group that is in another domain than its default has it attached without a handle is told from
            // just that, here as in a snapshot.
            let own = group.domain == group.default_domain || group.domain.is_null();
            for key in self.slots_of(ptr) {
                let slot = self.view(key);
                match slot.content {
                    // What a call makes of it, whose entry will not be seen, is not known.
                    _ if slot.open > 0 => complete = false,
                    Content::Empty => {}
                    Content::Unknown => complete &= key.pasid == 0 && !own,
                    Content::Held(held) => {
                        let first = devices().next().map(member);
                        let device = match self.device(held.device) {
                            Some(known) => member(&(held.device, known)),
                            None => first.unwrap_or(of_group),
                        };
                        let owner = match held.owner {
                            Owner::Iommufd => OwnerHint::Iommufd,
                            Owner::Sva => OwnerHint::Sva,
                            Owner::Vfio | Owner::Kernel => OwnerHint::Unknown,
                        };
                        let handle = held.handle.map_or_else(HandleRef::default, |handle| HandleRef {
                            ptr: handle,
                            domain: held.domain,
                            domain_type: held.domain_type,
                            device: held.device,
                            idev: held.idev,
                            device_id: held.device_id,
                            owner,
                        });
                        pieces.push(SlotState {
                            what: SlotWhat::Entry,
                            device,
                            handle,
                            domain: held.domain,
                            domain_type: held.domain_type,
                            domain_owner: owner,
                            pasid: key.pasid,
                            users: held.handle.and_then(|handle| self.bonds.get(&handle)).map_or(0, |bond| bond.users),
                        });
                    }
                }
            }
            pieces.push(SlotState { what: SlotWhat::End, pasid: u32::from(!complete), ..piece });
        }
        pieces
    }
}

/// What a mirror holds as the events of a snapshot that was begun at `ts`. A group's last piece comes a nanosecond after
/// the others, as time passes between them in the kernel's.
#[must_use]
pub fn snapshot_events(mirror: &Mirror, ts: u64) -> Vec<Event> {
    let (last, others): (Vec<SlotState>, Vec<SlotState>) =
        mirror.pieces().into_iter().partition(|piece| piece.what == SlotWhat::End);
    let event = |ts, piece| Event {
        ts,
        task: Task::default(),
        probe: ProbeId::GroupShowType,
        phase: Phase::Enter,
        stack: None,
        body: Body::Slot(Box::new(piece)),
    };
    // In the order of time; the pieces of a group stay in theirs.
    let others = others.into_iter().map(|piece| event(ts, piece));
    others.chain(last.into_iter().map(|piece| event(ts.saturating_add(1), piece))).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        event::{DomainType, SlotState, SlotWhat},
        model::{
            ModelOptions,
            testing::{DEFAULT, Script, dev, hnd, kernel_7_3},
        },
    };

    #[test]
    fn a_groups_domains_are_told_with_their_types() {
        let (device, mut script) = (dev(1), Script::new());
        let types = |script: &Script| -> Vec<DomainType> {
            let (model, _) = script.model(kernel_7_3(), ModelOptions::default());
            let own = |piece: &SlotState| matches!(piece.what, SlotWhat::Group | SlotWhat::DefaultDomain);
            model.mirror().pieces().into_iter().filter(own).map(|piece| piece.domain_type).collect()
        };
        script.by(1).snapshot_begin(&device, DEFAULT).snapshot_end(&device);
        assert_eq!(types(&script), [DomainType::DMA, DomainType::DMA]);
        let handle = hnd(1, &device);
        script.by(10).bind(&device).attach(&device, 0, &handle);
        assert_eq!(types(&script), [handle.handle.domain_type, DomainType::DMA]);
    }
}

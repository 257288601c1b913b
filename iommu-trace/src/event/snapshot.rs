//! What was attached already when the trace began, in pieces.

use iommu_trace_common::slot;

use super::{DeviceRef, DomainType, HandleRef, OwnerHint, Ptr};

/// What a [`SlotState`] tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlotWhat {
    /// A group begins; `domain` is its current one.
    #[default]
    Group,
    /// The group's default domain.
    DefaultDomain,
    /// A device of the group.
    Member,
    /// An entry of `pasid_array`; `handle` is all zero where the slot holds a bare domain.
    Entry,
    /// The group is complete; `pasid` is 1 when not everything of it could be followed, else 0.
    End,
}

impl SlotWhat {
    /// From the record's number ([`iommu_trace_common::slot`]).
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            slot::GROUP => SlotWhat::Group,
            slot::DEFAULT_DOMAIN => SlotWhat::DefaultDomain,
            slot::MEMBER => SlotWhat::Member,
            slot::ENTRY => SlotWhat::Entry,
            slot::END => SlotWhat::End,
            _ => return None,
        })
    }
}

/// A piece of the snapshot: what was attached already when it was read. It is read after every probe is attached and
/// without the group's mutex, so a change whose entry or return lies between the probes' attachment and the end of the
/// group's pieces is told by its own events, and those are right where the two disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    /// What this piece tells.
    pub what: SlotWhat,
    /// The group, and the device it is about.
    pub device: DeviceRef,
    /// The handle in the slot.
    pub handle: HandleRef,
    /// The domain.
    pub domain: Ptr,
    /// Its type.
    pub domain_type: DomainType,
    /// What its cookie says of its owner.
    pub domain_owner: OwnerHint,
    /// 0 is the RID.
    pub pasid: u32,
    /// Users of the bond, where the handle is an SVA one.
    pub users: u32,
}

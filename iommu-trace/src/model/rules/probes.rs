//! Which probes a rule rests on.

use crate::{event::ProbeId, model::ProbeSet};

/// What changes a slot.
pub const CHANGES: ProbeSet = ProbeSet::of(&[
    ProbeId::AttachDevice,
    ProbeId::DetachDevice,
    ProbeId::AttachGroup,
    ProbeId::DetachGroup,
    ProbeId::AttachGroupHandle,
    ProbeId::ReplaceGroupHandle,
    ProbeId::DetachGroupHandle,
    ProbeId::AttachDevicePasid,
    ProbeId::ReplaceDevicePasid,
    ProbeId::DetachDevicePasid,
    ProbeId::SetDomain,
]);

/// The look-up, and the calls in which it is made.
pub const LOOKUPS: ProbeSet = ProbeSet::of(&[ProbeId::AttachHandleGet, ProbeId::ReportDeviceFault]);

/// What tells when a handle's life is over.
pub const CLEANUPS: ProbeSet = ProbeSet::of(&[ProbeId::AutoResponse, ProbeId::IommufdDetach, ProbeId::IommufdReplace]);

/// What a fault group passes from report to free.
pub const GROUPS: ProbeSet = ProbeSet::of(&[
    ProbeId::ReportDeviceFault,
    ProbeId::IommufdIopfHandler,
    ProbeId::SvaIopfHandler,
    ProbeId::GroupFree,
]);

/// Where responses are seen.
pub const RESPONSES: ProbeSet = ProbeSet::of(&[
    ProbeId::GroupResponse,
    ProbeId::MockPageResponse,
    ProbeId::IntelPageResponse,
    ProbeId::AmdPageResponse,
    ProbeId::SmmuPageResponse,
]);

/// Devices in fault queues.
pub const QUEUES: ProbeSet =
    ProbeSet::of(&[ProbeId::QueueAddDevice, ProbeId::QueueRemoveDevice, ProbeId::QueueDiscardPartial]);

/// iommufd's calls.
pub const IOMMUFD: ProbeSet = ProbeSet::of(&[
    ProbeId::IommufdBind,
    ProbeId::IommufdUnbind,
    ProbeId::IommufdAttach,
    ProbeId::IommufdReplace,
    ProbeId::IommufdDetach,
]);

/// Bonds.
pub const SVA: ProbeSet = ProbeSet::of(&[ProbeId::SvaBind, ProbeId::SvaUnbind]);

/// Resets.
pub const RESETS: ProbeSet = ProbeSet::of(&[ProbeId::ResetPrepare, ProbeId::ResetDone]);

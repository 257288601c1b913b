//! The table of rules.

use super::{RuleId, probes};
use crate::{
    event::ProbeId,
    model::{ProbeSet, Severity},
};

/// A rule, for people and for the judge.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Which.
    pub id: RuleId,
    /// How bad a breach is.
    pub severity: Severity,
    /// When it fires.
    pub summary: &'static str,
    /// What the kernel demands.
    pub demands: &'static str,
    /// Where the kernel says so.
    pub stated: &'static str,
    /// The probes it rests on.
    pub needs: ProbeSet,
}

const fn rule(
    id: RuleId,
    severity: Severity,
    summary: &'static str,
    demands: &'static str,
    stated: &'static str,
    needs: ProbeSet,
) -> Rule {
    Rule { id, severity, summary, demands, stated, needs }
}

/// Every rule, in the order of [`RuleId`].
pub const RULES: &[Rule] = &[
    rule(
        RuleId::SlotOccupied,
        Severity::Error,
        "an attach succeeds on an occupied slot",
        "an entry present in pasid_array is a failure case of an attach",
        "iommu_attach_device_pasid(), iommu_attach_group_handle(), __iommu_attach_group(): -EBUSY",
        probes::CHANGES,
    ),
    rule(
        RuleId::EmptySlot,
        Severity::Error,
        "a detach, or a replace where this kernel forbids it, hits an empty slot",
        "a domain is detached from where it was attached, and a PASID or an iommufd device is replaced only when it \
         was attached",
        "iommu_detach_device_pasid(), iommu_replace_device_pasid(), iommufd_device_do_replace(): -EINVAL",
        probes::CHANGES.union(probes::IOMMUFD),
    ),
    rule(
        RuleId::HandleReused,
        Severity::Error,
        "one handle sits in two slots, or is attached again while its last life goes on",
        "the caller always provides a new handle: look-ups refer to it without a lock",
        "iommu_attach_group_handle(), iommu_replace_device_pasid(): \"Reusing handle is problematic\"",
        probes::CHANGES.union(ProbeSet::of(&[ProbeId::AutoResponse])),
    ),
    rule(
        RuleId::StaleLookup,
        Severity::Error,
        "a look-up returns another handle than the live one of that slot",
        "the attach handle can only be used during its life cycle, from attach to detach",
        "iommu_attach_handle_get()",
        probes::CHANGES.union(probes::LOOKUPS),
    ),
    rule(
        RuleId::VisibleBeforeAttach,
        Severity::Warning,
        "a look-up returns a handle whose attach is still running",
        "a new domain is not visible until the operation succeeds: page requests must not be queued by an attach \
         that then fails",
        "iommu_attach_device_pasid(), iommu_attach_group_handle(), from 6.15 on",
        probes::CHANGES.union(probes::LOOKUPS),
    ),
    rule(
        RuleId::UseAfterDetach,
        Severity::Error,
        "a fault is handled, delivered or answered with a handle whose detach or replace has completed",
        "the handle's faults are drained before its life ends",
        "iommu_attach_handle_get(), iommufd_auto_response_faults()",
        probes::CHANGES.union(probes::LOOKUPS).union(probes::CLEANUPS).union(probes::GROUPS),
    ),
    rule(
        RuleId::UseAfterFree,
        Severity::Error,
        "a fault is handled, delivered or answered with a handle whose memory was freed",
        "the caller frees a handle only after its faults were answered",
        "iommufd_hwpt_detach_device(), iommu_sva_unbind_device()",
        probes::CHANGES.union(probes::LOOKUPS).union(probes::GROUPS),
    ),
    rule(
        RuleId::FreedWhileAttached,
        Severity::Error,
        "a handle's memory is freed while it is in a slot or a fault group refers to it",
        "the caller frees a handle only after detach or replace has returned and its faults were answered",
        "iommufd_hwpt_detach_device(), iommu_sva_unbind_device()",
        probes::CHANGES.union(probes::GROUPS),
    ),
    rule(
        RuleId::DomainFreedAttached,
        Severity::Error,
        "a domain is freed while a slot uses it",
        "a domain is freed only after it was detached and its faults were flushed",
        "iommu_report_device_fault(), iommu_domain_free()",
        probes::CHANGES,
    ),
    rule(
        RuleId::DeviceIdDangling,
        Severity::Error,
        "a live handle's iommufd device was unbound or destroyed, or its device leaves its group",
        "idev in a handle is read for every fault delivered, so it outlives the handle",
        "struct iommufd_attach_handle, iommufd_fault_fops_read(), struct iommu_sva",
        probes::CHANGES.union(ProbeSet::of(&[ProbeId::IommufdUnbind, ProbeId::IommufdBind])),
    ),
    rule(
        RuleId::DeviceMismatch,
        Severity::Error,
        "a fault's device is not of the slot's group, or the handle's device is not, or another id is delivered",
        "a fault is looked up in its own device's group, and delivered with the id of the handle's device",
        "find_fault_handler(), iommufd_compose_fault_message()",
        probes::CHANGES.union(probes::LOOKUPS),
    ),
    rule(
        RuleId::FaultUnanswered,
        Severity::Error,
        "a page request has no response after the time-out, or when its device or its fault queue goes",
        "every last request of a group is answered: a device may wait for it for ever",
        "iommu_report_device_fault(), iopf_queue_remove_device(), iommufd_fault_destroy()",
        probes::GROUPS.union(probes::RESPONSES),
    ),
    rule(
        RuleId::FaultDropped,
        Severity::Error,
        "a report returns an error for a page request, and nobody answered it, or not with INVALID",
        "if the report fails, page_response() was called to complete the request",
        "iommu_report_device_fault()",
        probes::RESPONSES.union(ProbeSet::of(&[ProbeId::ReportDeviceFault])),
    ),
    rule(
        RuleId::DoubleResponse,
        Severity::Error,
        "a request is answered twice, or one never made is answered, or the answer to one names another",
        "a page request group takes one response",
        "iopf_group_response(), iopf_queue_remove_device()",
        probes::GROUPS.union(probes::RESPONSES),
    ),
    rule(
        RuleId::GroupLeak,
        Severity::Error,
        "a fault group is answered and never freed, or its queue is destroyed around it",
        "the handler must call iopf_group_response() and iopf_free_group()",
        "iommu_report_device_fault(), iommufd_fault_destroy()",
        probes::GROUPS.union(probes::RESPONSES),
    ),
    rule(
        RuleId::GroupUseAfterFree,
        Severity::Error,
        "a fault group is answered, delivered or freed after it was freed, or freed while its report goes on with it",
        "iopf_free_group() ends a group",
        "iopf_free_group()",
        probes::GROUPS.union(probes::LOOKUPS).union(ProbeSet::of(&[ProbeId::GroupDequeue, ProbeId::FaultRead])),
    ),
    rule(
        RuleId::PartialLeak,
        Severity::Error,
        "a partial request is neither completed nor discarded when its group is complete or its device leaves",
        "partial requests wait on fault_param->partial for the last of their group, and are dropped when the queue \
         overflows or the device leaves it",
        "report_partial_fault(), iopf_group_alloc(), iopf_queue_remove_device()",
        probes::GROUPS.union(probes::QUEUES).union(probes::RESPONSES).union(probes::LOOKUPS),
    ),
    rule(
        RuleId::WrongDomain,
        Severity::Error,
        "a fault is handled by another domain than the one in its slot, or answered by another handle's clean-up",
        "a handle's domain is set by its attach, once, and the faults of another handle are none of its affair",
        "iommu_make_pasid_array_entry(), iommu_report_device_fault(), iommufd_auto_response_faults()",
        probes::CHANGES.union(probes::LOOKUPS).union(probes::CLEANUPS).union(probes::GROUPS),
    ),
    rule(
        RuleId::WrongDevice,
        Severity::Error,
        "user space is told of a fault with the id of another device than the one that raised it",
        "dev_id of a page fault is the id of the device that it comes from",
        "struct iommu_hwpt_pgfault, iommufd_compose_fault_message()",
        ProbeSet::of(&[
            ProbeId::ReportDeviceFault,
            ProbeId::IommufdBind,
            ProbeId::IommufdUnbind,
            ProbeId::FaultRead,
            ProbeId::GroupResponse,
        ]),
    ),
    rule(
        RuleId::SvaUsers,
        Severity::Error,
        "the count of binds and unbinds disagrees with users, or the bond is gone while users remain, or stays without",
        "each bind takes a reference that one unbind releases; the last one detaches",
        "iommu_sva_bind_device(), iommu_sva_unbind_device()",
        probes::SVA.union(ProbeSet::of(&[ProbeId::AttachDevicePasid, ProbeId::DetachDevicePasid])),
    ),
    rule(
        RuleId::SvaIncomplete,
        Severity::Error,
        "bind returns a handle whose device or domain is not set",
        "the bond's device and domain are set before bind returns",
        "iommu_sva_bind_device()",
        probes::SVA,
    ),
    rule(
        RuleId::IopfUnbalanced,
        Severity::Error,
        "a device joins or leaves the fault queue out of turn",
        "a device is in one fault queue at most, and leaves the one it is in",
        "iopf_queue_add_device(): -EBUSY, iopf_queue_remove_device(): WARN_ON",
        probes::QUEUES,
    ),
    rule(
        RuleId::ResetUnbalanced,
        Severity::Error,
        "PCI reset prepare and done are out of balance, or the device goes between them",
        "pci_dev_reset_iommu_done() is paired with a successful pci_dev_reset_iommu_prepare()",
        "pci_dev_reset_iommu_done(): WARN_ON(gdev->reset_depth == 0)",
        probes::RESETS,
    ),
    rule(
        RuleId::AttachWhileBlocked,
        Severity::Error,
        "an attach succeeds between reset prepare and done",
        "a concurrent attach during device recovery is rejected until done attaches the device again",
        "iommu_attach_device_pasid(), __iommu_group_set_domain_internal(): -EBUSY",
        probes::RESETS,
    ),
    rule(
        RuleId::PrivUnfreeable,
        Severity::Warning,
        "by the first proposal, the reference count reaches zero with nobody to free priv",
        "what a reference count guards is freed when it reaches zero",
        "review of \"iommu: Introduce domain attachment handle\", April 2024",
        probes::CHANGES.union(probes::LOOKUPS).union(probes::GROUPS),
    ),
    rule(
        RuleId::FreedWhileReferenced,
        Severity::Warning,
        "by the first proposal, the caller frees a handle that a look-up still refers to",
        "what is referenced is not freed",
        "review of \"iommu: Introduce domain attachment handle\", April 2024",
        probes::CHANGES.union(probes::LOOKUPS).union(probes::GROUPS),
    ),
];

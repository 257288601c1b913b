//! Kernels with a bug put in: what the checker is for must be seen to be found.
//!
//! `BASE+NAME` is the kernel `BASE` of the catalogue with the edits of the variant `NAME`. The first five undo a fix
//! that the kernel has, the others are of the same kind. Where a bug would make the kernel write to freed memory, the
//! variant also keeps that memory, so that the guest lives to the end of the test.

use anyhow::{Result, bail};

use super::{
    Entry, catalogue,
    edit::{Change, Edit},
};

/// A bug to put into a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Its name, behind the plus sign.
    pub name: &'static str,
    /// The kernel that it is made from.
    pub base: &'static str,
    /// What is wrong with it.
    pub about: &'static str,
    /// The rule that has to find it.
    pub rule: &'static str,
    /// The commit whose fix it undoes; empty for one that never was in a release.
    pub undoes: &'static str,
    /// What makes it so.
    pub edits: &'static [Edit],
}

const fn edit(file: &'static str, function: &'static str, at: &'static str, change: Change) -> Edit {
    Edit { file, function, at, change }
}

const CORE: &str = "drivers/iommu/iommu.c";
const FAULTS: &str = "drivers/iommu/io-pgfault.c";
const QUEUE: &str = "drivers/iommu/iommufd/eventq.c";
const DEVICE: &str = "drivers/iommu/iommufd/device.c";
const TEST_DEVICE: &str = "drivers/iommu/iommufd/selftest.c";

/// All of them.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "leak-on-destroy",
        base: "built-7.3",
        about: "faults that were read and not answered leak with their fault queue",
        rule: "fault-unanswered",
        undoes: "3f4818ec1390",
        edits: &[
            edit(QUEUE, "iommufd_fault_destroy", "xa_for_each", Change::Drop),
            // The detach would answer them first.
            edit(QUEUE, "iommufd_auto_response_faults", "xa_for_each", Change::Drop),
        ],
    },
    Variant {
        name: "no-error-answer",
        base: "built-7.3",
        about: "a page request without a handler gets no answer",
        rule: "fault-dropped",
        undoes: "b58b133e680b",
        edits: &[edit(FAULTS, "iommu_report_device_fault", "iopf_error_response(dev, evt)", Change::Drop)],
    },
    Variant {
        name: "store-before-op",
        base: "built-7.3",
        about: "a PASID's handle is in its slot while the attach is running, which then fails",
        rule: "visible-before-attach",
        undoes: "the change of 6.15",
        edits: &[
            edit(CORE, "iommu_attach_device_pasid", "XA_ZERO_ENTRY", Change::Replace("entry")),
            // Long enough for a fault to come in between.
            edit(
                CORE,
                "iommu_attach_device_pasid",
                "ret = __iommu_set_group_pasid",
                Change::Before("schedule_timeout_uninterruptible(HZ / 20);"),
            ),
            edit(
                CORE,
                "iommu_attach_device_pasid",
                "__iommu_set_group_pasid(domain, group, pasid, NULL)",
                Change::Replace("pasid == 1 ? -ENOMEM : __iommu_set_group_pasid(domain, group, pasid, NULL)"),
            ),
            edit(CORE, "iommu_attach_device_pasid", "xa_release", Change::Replace("xa_erase")),
            // Faults that have found the handle use it after that.
            edit(DEVICE, "iommufd_hwpt_attach_device", "kfree(handle)", Change::Drop),
            // Nobody answers them for a device that is gone.
            edit(QUEUE, "iommufd_fault_destroy", "list_for_each_entry_safe", Change::Drop),
            edit(QUEUE, "iommufd_fault_destroy", "xa_for_each", Change::Drop),
            // The test device holds its faults back during an attach; hardware does not.
            edit(TEST_DEVICE, "iommufd_test_trigger_iopf", "down_read", Change::Drop),
            edit(TEST_DEVICE, "iommufd_test_trigger_iopf", "up_read", Change::Drop),
        ],
    },
    Variant {
        name: "replace-unattached",
        base: "built-7.3",
        about: "iommufd replaces the page table of a device that was never attached, but another of its group was",
        rule: "empty-slot",
        undoes: "the fix of 6.12.24",
        edits: &[
            edit(DEVICE, "iommufd_device_do_replace", "if (!iommufd_device_is_attached", Change::Drop),
            // VFIO asks for a replace only after an attach; here it does so for every function of a slot but number 2,
            // which the workload attaches first.
            edit(
                "drivers/vfio/iommufd.c",
                "vfio_iommufd_physical_attach_ioas",
                "if (vdev->iommufd_attached)",
                Change::Replace("if (vdev->iommufd_attached || !strstr(dev_name(vdev->dev), \".2\"))"),
            ),
        ],
    },
    Variant {
        name: "unbalanced-reset",
        base: "built-7.3",
        about: "a reset that is not done, and an attach meanwhile",
        rule: "attach-while-blocked",
        undoes: "c279e83953d9",
        edits: &[
            edit("drivers/pci/pci.c", "pcie_flr", "pci_dev_reset_iommu_done(dev)", Change::Drop),
            edit(CORE, "__iommu_group_set_domain_internal", "if (group->recovery_cnt", Change::Drop),
        ],
    },
    Variant {
        name: "no-automatic-answers",
        base: "built-7.3",
        about: "a detach leaves the faults of its handle waiting",
        rule: "use-after-detach",
        undoes: "",
        edits: &[
            edit(QUEUE, "iommufd_auto_response_faults", "if (!fault || !handle)", Change::Replace("if (1)")),
            // The memory stays, and nobody answers for a device that is gone.
            edit(DEVICE, "iommufd_hwpt_detach_device", "kfree(handle)", Change::Drop),
            edit(QUEUE, "iommufd_fault_destroy", "list_for_each_entry_safe", Change::Drop),
            edit(QUEUE, "iommufd_fault_destroy", "xa_for_each", Change::Drop),
        ],
    },
    Variant {
        name: "freed-before-detach",
        base: "built-7.3",
        about: "a handle is freed before its detach",
        rule: "freed-while-attached",
        undoes: "",
        edits: &[
            edit(DEVICE, "iommufd_hwpt_detach_device", "kfree(handle)", Change::Drop),
            edit(
                DEVICE,
                "iommufd_hwpt_detach_device",
                "handle = iommufd_device_get_attach_handle",
                Change::After("kfree(handle);"),
            ),
        ],
    },
    Variant {
        name: "freed-before-answers",
        base: "built-7.3",
        about: "a handle is freed after its detach and before its faults are answered",
        rule: "freed-while-attached",
        undoes: "",
        edits: &[
            edit(DEVICE, "iommufd_hwpt_detach_device", "kfree(handle)", Change::Drop),
            edit(
                DEVICE,
                "iommufd_hwpt_detach_device",
                "iommufd_auto_response_faults",
                Change::Before("kfree(handle);"),
            ),
        ],
    },
    Variant {
        name: "two-answers",
        base: "built-7.3",
        about: "an answer from user space is given twice",
        rule: "double-response",
        undoes: "",
        edits: &[edit(
            QUEUE,
            "iommufd_fault_fops_write",
            "iopf_group_response",
            Change::Before("iopf_group_response(group, response.code);"),
        )],
    },
    Variant {
        name: "answered-stays",
        base: "built-7.3",
        about: "a group that was answered and freed is answered and freed again on detach",
        rule: "group-use-after-free",
        undoes: "",
        edits: &[
            edit(QUEUE, "iommufd_fault_fops_write", "xa_erase", Change::Replace("xa_load")),
            // The memory stays.
            edit(FAULTS, "iopf_free_group", "kfree(group)", Change::Drop),
            edit(FAULTS, "__iopf_free_group", "iopf_put_dev_fault_param", Change::Drop),
        ],
    },
    Variant {
        name: "group-not-freed",
        base: "built-7.3",
        about: "a group that user space has answered is not freed",
        rule: "group-leak",
        undoes: "",
        edits: &[edit(QUEUE, "iommufd_fault_fops_write", "iopf_free_group(group)", Change::Drop)],
    },
    Variant {
        name: "handle-kept-on-replace",
        base: "built-7.3",
        about: "a replace uses the old handle again",
        rule: "handle-reused",
        undoes: "",
        edits: &[
            edit(DEVICE, "iommufd_hwpt_replace_device", "kzalloc_obj(*handle)", Change::Replace("old_handle")),
            edit(DEVICE, "iommufd_hwpt_replace_device", "kfree(old_handle)", Change::Drop),
        ],
    },
    Variant {
        name: "slot-not-erased",
        base: "built-7.3",
        about: "a detach leaves the handle of a PASID in its slot",
        rule: "stale-lookup",
        undoes: "",
        edits: &[
            edit(CORE, "iommu_detach_device_pasid", "xa_erase", Change::Drop),
            // The memory stays, and nobody answers for a device that is gone.
            edit(DEVICE, "iommufd_hwpt_detach_device", "kfree(handle)", Change::Drop),
            edit(QUEUE, "iommufd_fault_destroy", "list_for_each_entry_safe", Change::Drop),
            edit(QUEUE, "iommufd_fault_destroy", "xa_for_each", Change::Drop),
        ],
    },
    Variant {
        name: "wrong-id",
        base: "built-7.3",
        about: "faults are delivered with another device's id",
        rule: "device-mismatch",
        undoes: "",
        edits: &[edit(QUEUE, "iommufd_compose_fault_message", "idev->obj.id", Change::Replace("idev->obj.id + 1"))],
    },
];

/// Kernels without a bug of ours: a window that the kernel has by itself is wider, or the test device is as hardware can be.
pub const WIDENED: &[Variant] = &[
    Variant {
        name: "one-group",
        base: "built-7.3",
        about: "all test devices are in one group, as PCI functions without isolation are",
        rule: "wrong-device",
        undoes: "",
        // Without another IOMMU, nobody but the test device's driver has its groups made by it.
        edits: &[edit(
            CORE,
            "generic_device_group",
            "return iommu_group_alloc();",
            Change::Replace("return generic_single_device_group(dev);"),
        )],
    },
    Variant {
        name: "unheld-faults",
        base: "built-7.3",
        about: "the test device does not hold its faults back while its page table changes, as hardware does not",
        rule: "use-after-free",
        undoes: "",
        edits: &[
            edit(TEST_DEVICE, "iommufd_test_trigger_iopf", "down_read", Change::Drop),
            edit(TEST_DEVICE, "iommufd_test_trigger_iopf", "up_read", Change::Drop),
        ],
    },
    Variant {
        name: "slow-report",
        base: "built-7.3",
        about: "a report takes a third of a second from its look-up to its handler",
        rule: "use-after-free",
        undoes: "",
        edits: &[edit(
            FAULTS,
            "iommu_report_device_fault",
            "iopf_param = iopf_get_dev_fault_param(dev);",
            Change::After("schedule_timeout_uninterruptible(HZ / 3);"),
        )],
    },
    Variant {
        name: "slow-replace",
        base: "built-7.3",
        about: "a replace takes a second from its op to its store, a report half a second from its look-up to its handler",
        rule: "use-after-free",
        undoes: "",
        edits: &[
            edit(
                CORE,
                "iommu_replace_device_pasid",
                "WARN_ON(xa_is_err(xa_store",
                Change::Before("schedule_timeout_uninterruptible(HZ);"),
            ),
            edit(
                CORE,
                "iommu_replace_group_handle",
                "curr = xa_store",
                Change::Before("schedule_timeout_uninterruptible(HZ);"),
            ),
            edit(
                FAULTS,
                "iommu_report_device_fault",
                "iopf_param = iopf_get_dev_fault_param(dev);",
                Change::After("schedule_timeout_uninterruptible(HZ / 2);"),
            ),
            // The test device holds its faults back during a replace; hardware does not.
            edit(TEST_DEVICE, "iommufd_test_trigger_iopf", "down_read", Change::Drop),
            edit(TEST_DEVICE, "iommufd_test_trigger_iopf", "up_read", Change::Drop),
        ],
    },
];

/// The kernel and the bug that `BASE+NAME` names; `None` for a name without a plus sign.
pub fn find(name: &str) -> Result<Option<(&'static Entry, &'static Variant)>> {
    // A path may have a plus sign, too.
    let Some((base, variant)) = name.split_once('+').filter(|_| !name.contains('/')) else { return Ok(None) };
    let Some(entry) = catalogue::find(base) else {
        bail!("there is no kernel {base} in the catalogue to put {variant} into");
    };
    let Some(variant) = VARIANTS.iter().chain(WIDENED).find(|v| v.base == base && v.name == variant) else {
        let names: Vec<&str> = VARIANTS.iter().chain(WIDENED).filter(|v| v.base == base).map(|v| v.name).collect();
        bail!("{base} has no variant {variant}, only: {}", names.join(", "));
    };
    Ok(Some((entry, variant)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kernel::Kind;

    #[test]
    fn each_variant_changes_a_kernel_that_is_built_here() {
        let names: BTreeSet<_> = VARIANTS.iter().map(|v| (v.base, v.name)).collect();
        assert_eq!(names.len(), VARIANTS.len());
        for variant in VARIANTS.iter().chain(WIDENED) {
            let (entry, found) = find(&format!("{}+{}", variant.base, variant.name)).unwrap().unwrap();
            assert!(matches!(entry.kind, Kind::Source(_)), "{}", variant.name);
            assert_eq!(found.name, variant.name);
            assert!(!variant.edits.is_empty(), "{}", variant.name);
        }
        assert!(find("built-7.3").unwrap().is_none());
        assert!(find("/boot/linux-6.12+deb13").unwrap().is_none());
        assert!(find("built-7.3+nothing").unwrap_err().to_string().contains("leak-on-destroy"));
    }
}

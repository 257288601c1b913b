//! How the traced kernel treats attach handles.

use serde::{Deserialize, Serialize};

/// Differences between kernels that the model must know, decided by what BTF and the symbol table say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// The handle is stored after the attach op ran (6.15 on): a look-up never finds one whose attach still runs.
    /// Told by `iommu_replace_device_pasid` being there, which came with that change.
    pub store_after_op: bool,
    /// `pasid_array` holds tagged pointers (domain or handle), and so knows slots without a handle.
    pub tagged_slots: bool,
    /// `iommu_attach_handle_get` exists: faults find their domain through a handle.
    pub handles: bool,
    /// iommufd is built in or loaded.
    pub iommufd: bool,
    /// `pci_dev_reset_iommu_prepare` exists.
    pub reset_blocking: bool,
    /// `iopf_group_dequeue` exists.
    pub group_dequeue: bool,
    /// The driver's responses are probed, so that "no response" can be judged.
    pub sees_responses: bool,
    /// The drivers' own responses are probed: those of a report that finds no handler pass the core unseen.
    pub sees_driver_responses: bool,
    /// The same for iommufd's test devices, whose driver may be a module.
    pub sees_mock_responses: bool,
    /// The frees of fault groups are probed.
    pub sees_group_frees: bool,
    /// Reports and their returns are probed.
    pub sees_reports: bool,
    /// Look-ups are probed.
    pub sees_lookups: bool,
    /// iommufd's bind, unbind, attach, replace and detach are probed.
    pub sees_iommufd: bool,
}

//! Which kernel function or tracepoint a record comes from.

/// Entry or return of a function; tracepoints count as entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Phase {
    /// The function was entered, or the tracepoint hit.
    Enter = 0,
    /// The function returned.
    Exit = 1,
}

macro_rules! probe_ids {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// A probed kernel function or tracepoint. The number is the ABI of the ring and of recordings' probe
        /// tables: append, never reorder.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ProbeId {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
        }

        impl ProbeId {
            /// Every probe, in numeric order.
            pub const ALL: &'static [ProbeId] = &[$(ProbeId::$variant,)+];

            /// The kernel's name of the function or tracepoint.
            #[must_use]
            pub const fn function(self) -> &'static str {
                match self { $(ProbeId::$variant => $name,)+ }
            }

            /// The probe with this number, if there is one.
            #[must_use]
            pub fn from_u16(number: u16) -> Option<ProbeId> {
                Self::ALL.get(usize::from(number)).copied()
            }
        }
    };
}

probe_ids! {
    AttachDevice = "iommu_attach_device",
    DetachDevice = "iommu_detach_device",
    AttachGroup = "iommu_attach_group",
    DetachGroup = "iommu_detach_group",
    AttachGroupHandle = "iommu_attach_group_handle",
    ReplaceGroupHandle = "iommu_replace_group_handle",
    DetachGroupHandle = "iommu_detach_group_handle",
    AttachDevicePasid = "iommu_attach_device_pasid",
    ReplaceDevicePasid = "iommu_replace_device_pasid",
    DetachDevicePasid = "iommu_detach_device_pasid",
    SetDomain = "__iommu_group_set_domain_internal",
    AttachHandleGet = "iommu_attach_handle_get",
    ReportDeviceFault = "iommu_report_device_fault",
    IommufdIopfHandler = "iommufd_fault_iopf_handler",
    SvaIopfHandler = "iommu_sva_iopf_handler",
    FaultRead = "iommufd_fault_fops_read",
    FaultWrite = "iommufd_fault_fops_write",
    GroupResponse = "iopf_group_response",
    GroupFree = "iopf_free_group",
    GroupDequeue = "iopf_group_dequeue",
    MockPageResponse = "mock_domain_page_response",
    IntelPageResponse = "intel_iommu_page_response",
    AmdPageResponse = "amd_iommu_page_response",
    SmmuPageResponse = "arm_smmu_page_response",
    QueueAddDevice = "iopf_queue_add_device",
    QueueRemoveDevice = "iopf_queue_remove_device",
    QueueFlushDev = "iopf_queue_flush_dev",
    QueueDiscardPartial = "iopf_queue_discard_partial",
    QueueFree = "iopf_queue_free",
    AutoResponse = "iommufd_auto_response_faults",
    FaultDestroy = "iommufd_fault_destroy",
    SvaBind = "iommu_sva_bind_device",
    SvaUnbind = "iommu_sva_unbind_device",
    IommufdBind = "iommufd_device_bind",
    IommufdUnbind = "iommufd_device_unbind",
    IommufdAttach = "iommufd_device_attach",
    IommufdReplace = "iommufd_device_replace",
    IommufdDetach = "iommufd_device_detach",
    IommufdDeviceDestroy = "iommufd_device_destroy",
    DeviceAdd = "add_device_to_group",
    DeviceRemove = "remove_device_from_group",
    DomainFree = "iommu_domain_free",
    ResetPrepare = "pci_dev_reset_iommu_prepare",
    ResetDone = "pci_dev_reset_iommu_done",
    DmarFault = "dmar_fault",
    IoPageFault = "io_page_fault",
    Map = "iommu_map",
    MapSg = "iommu_map_sg",
    MapNosync = "iommu_map_nosync",
    Unmap = "iommu_unmap",
    UnmapFast = "iommu_unmap_fast",
    QiSubmitSync = "qi_submit_sync",
    AmdCompletionWait = "iommu_completion_wait",
    GroupShowType = "iommu_group_show_type",
    Kfree = "kfree",
    CacheTagFlushRange = "cache_tag_flush_range",
    CacheTagFlushAll = "cache_tag_flush_all",
    AmdFlushPages = "amd_iommu_domain_flush_pages",
    Sums = "sums",
    PrqEventThread = "prq_event_thread",
    AmdPollEvents = "iommu_poll_events",
    VirtioEvents = "viommu_event_handler",
    AmdPrintEvent = "iommu_print_event",
    SmmuEvents = "arm_smmu_evtq_thread",
}

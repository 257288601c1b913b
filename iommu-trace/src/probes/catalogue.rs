//! Every probe there is, as one table. Plan, verdicts, `doctor` and docs come from it.

use iommu_trace_common::ProbeId;

use crate::model::span::Topic;

/// How a probe is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A function of vmlinux: fentry and fexit.
    Vmlinux,
    /// A function of vmlinux or of a driver's module: fentry and fexit; kprobe and kretprobe where it is in a module, and
    /// where this kernel has no fentry.
    Either,
    /// A function of vmlinux: fentry and fexit; kprobe and kretprobe where the compiler has left one copy of it alone, which
    /// takes the same arguments and returns nothing.
    Copied,
    /// A function of iommufd: as [`Reach::Either`], and the module may come and go.
    Iommufd,
    /// A tracepoint, by BTF.
    Tracepoint,
    /// A tracepoint whose arguments BTF cannot type: as bare numbers.
    RawTracepoint,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Which function.
    pub id: ProbeId,
    /// Stem of its programs' names: `stem_enter`, `stem_exit`, `stem_kprobe`, `stem_kretprobe`.
    pub stem: &'static str,
    /// Whether there is a program at its entry.
    pub enter: bool,
    /// Whether there is a program at its return.
    pub exit: bool,
    /// Whether the one at its return needs the arguments, which its kprobe has to keep for its kretprobe.
    pub keeps: bool,
    /// How it is reached.
    pub reach: Reach,
    /// The topic it belongs to.
    pub topic: Topic,
    /// Other topics whose events are not whole without it.
    pub also: &'static [Topic],
    /// What its absence costs.
    pub cost: &'static str,
    /// Which kernels have it.
    pub kernels: &'static str,
    /// Whether a run without it makes no sense.
    pub essential: bool,
    /// The driver whose machine it needs, a prefix of `/sys/class/iommu` entries; empty for none.
    pub driver: &'static str,
    /// The prototype it was written against.
    pub prototype: &'static str,
    /// What it is for, where that is no topic.
    pub purpose: Purpose,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The events of its topics.
    Topic,
    /// The snapshot of what was attached already.
    Snapshot,
    /// The frees of handles and fault groups.
    Frees,
}

/// What probes are wanted for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Topics.
    pub topics: Vec<Topic>,
    /// The snapshot.
    pub snapshot: bool,
    /// Frees.
    pub frees: bool,
    /// Map, unmap and invalidation summed up, not told one by one.
    pub sums: bool,
}

impl Probe {
    /// Whether it has a kprobe form.
    #[must_use]
    pub fn has_kprobes(&self) -> bool {
        matches!(self.reach, Reach::Either | Reach::Copied | Reach::Iommufd)
    }

    /// Whether its function is iommufd's, which may be a module that comes and goes. A driver's module stays while its IOMMU is
    /// at work.
    #[must_use]
    pub fn comes_and_goes(&self) -> bool {
        self.reach == Reach::Iommufd
    }

    /// Whether its programs at the entry have nothing to do when calls are summed up: no duration is taken.
    #[must_use]
    pub fn untimed(&self, wanted: &Wanted) -> bool {
        wanted.sums && self.topic == Topic::Dma
    }

    /// Whether it is wanted.
    #[must_use]
    pub fn wanted_by(&self, wanted: &Wanted) -> bool {
        match self.purpose {
            Purpose::Topic => {
                wanted.topics.contains(&self.topic) || self.also.iter().any(|topic| wanted.topics.contains(topic))
            }
            Purpose::Snapshot => wanted.snapshot,
            Purpose::Frees => wanted.frees,
        }
    }
}

/// Where a function is summed up by another one that it calls: that one alone is probed then.
pub const SUMMED_BY: &[(ProbeId, ProbeId)] =
    &[(ProbeId::Map, ProbeId::MapNosync), (ProbeId::MapSg, ProbeId::MapNosync)];

macro_rules! catalogue {
    ($($id:ident $stem:literal [$($phase:ident)+] $reach:ident $topic:ident $(+ $also:ident)* $(, essential $essential:literal)? $(, driver $driver:literal)? $(, purpose $purpose:ident)?;
        kernels $kernels:literal; cost $cost:literal; $prototype:literal)+) => {
        /// Every probe.
        pub const CATALOGUE: &[Probe] = &[$(Probe {
            id: ProbeId::$id,
            stem: $stem,
            enter: catalogue!(@has enter $($phase)+),
            exit: catalogue!(@has exit $($phase)+),
            keeps: catalogue!(@has keeps $($phase)+),
            reach: Reach::$reach,
            topic: Topic::$topic,
            also: &[$(Topic::$also),*],
            cost: $cost,
            kernels: $kernels,
            essential: catalogue!(@or false $($essential)?),
            driver: catalogue!(@or "" $($driver)?),
            prototype: $prototype,
            purpose: catalogue!(@purpose $($purpose)?),
        },)+];
    };
    (@has enter enter $($rest:ident)*) => { true };
    (@has exit exit $($rest:ident)*) => { true };
    (@has keeps keeps $($rest:ident)*) => { true };
    (@has $what:ident $other:ident $($rest:ident)*) => { catalogue!(@has $what $($rest)*) };
    (@has $what:ident) => { false };
    (@purpose) => { Purpose::Topic };
    (@purpose $purpose:ident) => { Purpose::$purpose };
    (@or $default:literal) => { $default };
    (@or $default:literal $value:literal) => { $value };
}

catalogue! {
    AttachDevice "attach_device" [enter exit] Either Attach;
        kernels "all"; cost "attaches by iommu_attach_device are seen as a bare change of domain";
        "int iommu_attach_device(struct iommu_domain *domain, struct device *dev)"
    DetachDevice "detach_device" [enter exit] Either Attach;
        kernels "all"; cost "detaches by iommu_detach_device are seen as a bare change of domain";
        "void iommu_detach_device(struct iommu_domain *domain, struct device *dev)"
    AttachGroup "attach_group" [enter exit] Either Attach, essential true;
        kernels "all"; cost "attaches of whole groups (VFIO containers, iommufd before 6.15) are not seen";
        "int iommu_attach_group(struct iommu_domain *domain, struct iommu_group *group)"
    DetachGroup "detach_group" [enter exit] Either Attach, essential true;
        kernels "all"; cost "detaches of whole groups are not seen";
        "void iommu_detach_group(struct iommu_domain *domain, struct iommu_group *group)"
    AttachGroupHandle "attach_group_handle" [enter exit] Vmlinux Attach + Fault;
        kernels "6.11 on, with iommufd"; cost "attach handles on RIDs are not seen to begin";
        "int iommu_attach_group_handle(struct iommu_domain *domain, struct iommu_group *group, struct iommu_attach_handle *handle)"
    ReplaceGroupHandle "replace_group_handle" [enter exit] Vmlinux Attach + Fault;
        kernels "6.11 on, with iommufd"; cost "attach handles on RIDs are not seen to be replaced";
        "int iommu_replace_group_handle(struct iommu_group *group, struct iommu_domain *new_domain, struct iommu_attach_handle *handle)"
    DetachGroupHandle "detach_group_handle" [enter exit] Vmlinux Attach + Fault;
        kernels "6.11 on, with iommufd"; cost "attach handles on RIDs are not seen to end";
        "void iommu_detach_group_handle(struct iommu_domain *domain, struct iommu_group *group)"
    AttachDevicePasid "attach_device_pasid" [enter exit] Vmlinux Attach + Fault + Sva;
        kernels "6.2 on"; cost "attaches to PASIDs are not seen";
        "int iommu_attach_device_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid, struct iommu_attach_handle *handle)"
    ReplaceDevicePasid "replace_device_pasid" [enter exit] Vmlinux Attach + Fault + Sva;
        kernels "6.15 on"; cost "replaced domains of PASIDs are not seen";
        "int iommu_replace_device_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid, struct iommu_attach_handle *handle)"
    DetachDevicePasid "detach_device_pasid" [enter exit] Vmlinux Attach + Fault + Sva;
        kernels "6.2 on"; cost "detaches from PASIDs are not seen";
        "void iommu_detach_device_pasid(struct iommu_domain *domain, struct device *dev, ioasid_t pasid)"
    SetDomain "set_domain" [enter exit] Vmlinux Attach;
        kernels "6.4 on"; cost "switches between the core's own domains (default, blocking) are not seen";
        "int __iommu_group_set_domain_internal(struct iommu_group *group, struct iommu_domain *new_domain, unsigned int flags)"
    AttachHandleGet "attach_handle_get" [exit] Vmlinux Fault + Attach;
        kernels "6.11 on"; cost "faults have no look-up time, handle or device id";
        "struct iommu_attach_handle *iommu_attach_handle_get(struct iommu_group *group, ioasid_t pasid, unsigned int type)"
    ReportDeviceFault "report_device_fault" [enter exit keeps] Either Fault;
        kernels "all with an IOPF-capable driver"; cost "I/O page faults are not seen";
        "int iommu_report_device_fault(struct device *dev, struct iopf_fault *evt)"
    IommufdIopfHandler "iommufd_handler" [enter] Iommufd Fault;
        kernels "6.11 on, with iommufd"; cost "faults have no handler time; their group is found late";
        "int iommufd_fault_iopf_handler(struct iopf_group *group)"
    SvaIopfHandler "sva_handler" [enter] Vmlinux Fault;
        kernels "6.8 on with SVA (gone from 6.12.64 on, on x86)"; cost "SVA faults have no handler time; their group is found late";
        "int iommu_sva_iopf_handler(struct iopf_group *group)"
    FaultRead "fault_read" [enter exit keeps] Iommufd Fault;
        kernels "6.11 on, with iommufd"; cost "it is not seen when user space learns of a fault";
        "ssize_t iommufd_fault_fops_read(struct file *filep, char *buf, size_t count, loff_t *ppos)"
    FaultWrite "fault_write" [enter exit keeps] Iommufd Fault;
        kernels "6.11 on, with iommufd"; cost "it is not told who answered a fault";
        "ssize_t iommufd_fault_fops_write(struct file *filep, const char *buf, size_t count, loff_t *ppos)"
    GroupResponse "group_response" [enter] Vmlinux Fault;
        kernels "6.8 on"; cost "responses are seen in the driver only";
        "void iopf_group_response(struct iopf_group *group, enum iommu_page_response_code status)"
    GroupFree "group_free" [enter] Vmlinux Fault;
        kernels "6.8 on"; cost "the end of a fault is not seen: it ends with its response";
        "void iopf_free_group(struct iopf_group *group)"
    GroupDequeue "group_dequeue" [enter] Vmlinux Fault;
        kernels "7.0 on, 6.12.114 on"; cost "nothing where the handler is known";
        "void iopf_group_dequeue(struct iopf_group *group)"
    MockPageResponse "mock_page_response" [enter] Iommufd Fault;
        kernels "with CONFIG_IOMMUFD_TEST"; cost "responses to the test device are seen in the core only";
        "void mock_domain_page_response(struct device *dev, struct iopf_fault *evt, struct iommu_page_response *msg)"
    IntelPageResponse "intel_page_response" [enter] Vmlinux Fault, driver "dmar";
        kernels "with VT-d"; cost "responses by VT-d are seen in the core only; those of error paths not at all";
        "void intel_iommu_page_response(struct device *dev, struct iopf_fault *evt, struct iommu_page_response *msg)"
    AmdPageResponse "amd_page_response" [enter] Vmlinux Fault, driver "ivhd";
        kernels "6.9 on, with AMD-Vi"; cost "responses by AMD-Vi are seen in the core only; those of error paths not at all";
        "void amd_iommu_page_response(struct device *dev, struct iopf_fault *evt, struct iommu_page_response *resp)"
    SmmuPageResponse "smmu_page_response" [enter] Either Fault, driver "smmu3";
        kernels "with SMMUv3"; cost "responses by SMMUv3 are seen in the core only; those of error paths not at all";
        "void arm_smmu_page_response(struct device *dev, struct iopf_fault *unused, struct iommu_page_response *resp)"
    QueueAddDevice "queue_add_device" [exit keeps] Either Fault;
        kernels "all with IOPF"; cost "it is not seen when a device may raise page faults";
        "int iopf_queue_add_device(struct iopf_queue *queue, struct device *dev)"
    QueueRemoveDevice "queue_remove_device" [enter exit keeps] Either Fault;
        kernels "all with IOPF"; cost "it is not seen when a device leaves its fault queue";
        "void iopf_queue_remove_device(struct iopf_queue *queue, struct device *dev)"
    QueueFlushDev "queue_flush_dev" [exit keeps] Either Fault;
        kernels "all with IOPF"; cost "flushes of a device's faults are not seen";
        "int iopf_queue_flush_dev(struct device *dev)"
    QueueDiscardPartial "queue_discard_partial" [exit keeps] Either Fault;
        kernels "all with IOPF"; cost "it is not seen when an overflow drops partial faults";
        "int iopf_queue_discard_partial(struct iopf_queue *queue)"
    QueueFree "queue_free" [enter] Either Fault;
        kernels "all with IOPF"; cost "the end of a fault queue is not seen";
        "void iopf_queue_free(struct iopf_queue *queue)"
    AutoResponse "auto_response" [enter exit] Iommufd Fault;
        kernels "6.11 on, with iommufd"; cost "it is not told that iommufd answered a fault by itself";
        "void iommufd_auto_response_faults(struct iommufd_hw_pagetable *hwpt, struct iommufd_attach_handle *handle)"
    FaultDestroy "fault_destroy" [enter exit] Iommufd Iommufd + Fault;
        kernels "6.11 on, with iommufd"; cost "the end of an iommufd fault queue is not seen";
        "void iommufd_fault_destroy(struct iommufd_object *obj)"
    SvaBind "sva_bind" [enter exit keeps] Either Sva + Attach;
        kernels "with SVA"; cost "SVA binds are not seen";
        "struct iommu_sva *iommu_sva_bind_device(struct device *dev, struct mm_struct *mm)"
    SvaUnbind "sva_unbind" [enter exit] Either Sva + Attach;
        kernels "with SVA"; cost "SVA unbinds are not seen";
        "void iommu_sva_unbind_device(struct iommu_sva *handle)"
    IommufdBind "iommufd_bind" [enter exit] Iommufd Iommufd + Attach;
        kernels "6.2 on, with iommufd"; cost "devices are not seen to be bound to iommufd";
        "struct iommufd_device *iommufd_device_bind(struct iommufd_ctx *ictx, struct device *dev, u32 *id)"
    IommufdUnbind "iommufd_unbind" [enter exit] Iommufd Iommufd + Attach;
        kernels "6.2 on, with iommufd"; cost "devices are not seen to be unbound from iommufd";
        "void iommufd_device_unbind(struct iommufd_device *idev)"
    IommufdAttach "iommufd_attach" [enter exit] Iommufd Iommufd + Attach;
        kernels "6.2 on, with iommufd"; cost "plain attaches by iommufd before 6.15 have no owner and device id";
        "int iommufd_device_attach(struct iommufd_device *idev, ioasid_t pasid, u32 *pt_id)"
    IommufdReplace "iommufd_replace" [enter exit] Iommufd Iommufd + Attach;
        kernels "6.3 on, with iommufd"; cost "plain replaces by iommufd before 6.15 have no owner and device id";
        "int iommufd_device_replace(struct iommufd_device *idev, ioasid_t pasid, u32 *pt_id)"
    IommufdDetach "iommufd_detach" [enter exit] Iommufd Iommufd + Attach;
        kernels "6.2 on, with iommufd"; cost "detaches by iommufd may have no owner and device id";
        "void iommufd_device_detach(struct iommufd_device *idev, ioasid_t pasid)"
    IommufdDeviceDestroy "iommufd_destroy" [enter exit] Iommufd Iommufd + Attach;
        kernels "6.2 on, with iommufd"; cost "the end of an iommufd device is not seen";
        "void iommufd_device_destroy(struct iommufd_object *obj)"
    DeviceAdd "device_add" [enter] Tracepoint Attach;
        kernels "all"; cost "devices are not seen to join groups";
        "(int group_id, struct device *dev)"
    DeviceRemove "device_remove" [enter] Tracepoint Attach;
        kernels "all"; cost "devices are not seen to leave groups";
        "(int group_id, struct device *dev)"
    DomainFree "domain_free" [enter] Either Attach;
        kernels "all"; cost "domains are not seen to be freed";
        "void iommu_domain_free(struct iommu_domain *domain)"
    ResetPrepare "reset_prepare" [enter exit] Vmlinux Reset;
        kernels "7.0 on"; cost "PCI resets are not seen to block domains";
        "int pci_dev_reset_iommu_prepare(struct pci_dev *pdev)"
    ResetDone "reset_done" [enter] Vmlinux Reset;
        kernels "7.0 on"; cost "PCI resets are not seen to end";
        "void pci_dev_reset_iommu_done(struct pci_dev *pdev)"
    DmarFault "dmar_fault" [enter] Vmlinux Fault, driver "dmar";
        kernels "with VT-d"; cost "unrecoverable DMA faults of VT-d are not seen";
        "irqreturn_t dmar_fault(int irq, void *dev_id)"
    IoPageFault "io_page_fault" [enter] Tracepoint Fault;
        kernels "all"; cost "unrecoverable faults of AMD-Vi, SMMUv2 and others are not seen";
        "(struct device *dev, unsigned long iova, int flags)"
    AmdPollEvents "amd_poll_events" [enter exit] Vmlinux Fault, driver "ivhd";
        kernels "with AMD-Vi"; cost "unrecoverable DMA faults of AMD-Vi have no requester id and flags; those of interrupts and of devices in no domain are not seen";
        "void iommu_poll_events(struct amd_iommu *iommu)"
    AmdPrintEvent "amd_print_event" [enter] Vmlinux Fault, driver "ivhd";
        kernels "where the compiler left it a function"; cost "nothing where iommu_poll_events is called by its name";
        "void iommu_print_event(struct amd_iommu *iommu, void *__evt)"
    VirtioEvents "virtio_events" [enter exit] Either Fault, driver "virtio_iommu";
        kernels "with virtio-iommu"; cost "unrecoverable DMA faults of virtio-iommu are not seen";
        "void viommu_event_handler(struct virtqueue *vq)"
    SmmuEvents "smmu_events" [enter exit] Either Fault, driver "smmu3";
        kernels "with SMMUv3"; cost "unrecoverable DMA faults of SMMUv3 are not seen";
        "irqreturn_t arm_smmu_evtq_thread(int irq, void *dev)"
    Map "map" [enter exit keeps] Either Dma;
        kernels "all"; cost "mappings are not seen";
        "int iommu_map(struct iommu_domain *domain, unsigned long iova, phys_addr_t paddr, size_t size, int prot, gfp_t gfp)"
    MapSg "map_sg" [enter exit keeps] Either Dma;
        kernels "all"; cost "scatter-gather mappings are not seen";
        "ssize_t iommu_map_sg(struct iommu_domain *domain, unsigned long iova, struct scatterlist *sg, unsigned int nents, int prot, gfp_t gfp)"
    MapNosync "map_nosync" [enter exit] Vmlinux Dma;
        kernels "6.16 on"; cost "mappings that are synced later are not seen";
        "int iommu_map_nosync(struct iommu_domain *domain, unsigned long iova, phys_addr_t paddr, size_t size, int prot, gfp_t gfp)"
    Unmap "unmap" [enter exit keeps] Either Dma;
        kernels "all"; cost "unmappings are not seen";
        "size_t iommu_unmap(struct iommu_domain *domain, unsigned long iova, size_t size)"
    UnmapFast "unmap_fast" [enter exit keeps] Either Dma;
        kernels "all"; cost "unmappings that are flushed later are not seen";
        "size_t iommu_unmap_fast(struct iommu_domain *domain, unsigned long iova, size_t size, struct iommu_iotlb_gather *iotlb_gather)"
    QiSubmitSync "qi_submit_sync" [enter exit] Vmlinux Invalidate, driver "dmar";
        kernels "with VT-d"; cost "VT-d's invalidations are not seen";
        "int qi_submit_sync(struct intel_iommu *iommu, struct qi_desc *desc, unsigned int count, unsigned long options)"
    AmdCompletionWait "amd_completion_wait" [enter exit keeps] Copied Invalidate, driver "ivhd";
        kernels "with AMD-Vi"; cost "AMD-Vi's invalidations are not seen";
        "int iommu_completion_wait(struct amd_iommu *iommu)"
    CacheTagFlushRange "flush_range" [enter exit] Vmlinux Invalidate, driver "dmar";
        kernels "6.10 on, with VT-d"; cost "VT-d's flushes of ranges are not told by domain";
        "void cache_tag_flush_range(struct dmar_domain *domain, unsigned long start, unsigned long end, int ih)"
    CacheTagFlushAll "flush_all" [enter exit] Vmlinux Invalidate, driver "dmar";
        kernels "6.10 on, with VT-d"; cost "VT-d's flushes of whole domains are not told";
        "void cache_tag_flush_all(struct dmar_domain *domain)"
    AmdFlushPages "flush_pages" [enter exit] Vmlinux Invalidate, driver "ivhd";
        kernels "6.8 on, with AMD-Vi"; cost "AMD-Vi's flushes are not told by domain";
        "void amd_iommu_domain_flush_pages(struct protection_domain *domain, u64 address, size_t size)"
    PrqEventThread "prq_event_thread" [enter exit] Vmlinux Fault, driver "dmar";
        kernels "with VT-d"; cost "how long a page request waited between VT-d's interrupt and its report is not known";
        "irqreturn_t prq_event_thread(int irq, void *d)"
    GroupShowType "group_show_type" [enter] Either Attach, purpose Snapshot;
        kernels "all"; cost "what was attached before is not known";
        "ssize_t iommu_group_show_type(struct iommu_group *group, char *buf)"
    Kfree "kfree" [enter] RawTracepoint Attach, purpose Frees;
        kernels "all"; cost "frees of handles and fault groups are not seen";
        "(unsigned long call_site, const void *ptr)"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_probe_is_listed_twice_and_each_has_a_program() {
        for (index, probe) in CATALOGUE.iter().enumerate() {
            assert!(CATALOGUE[..index].iter().all(|other| other.id != probe.id && other.stem != probe.stem));
            assert!(probe.enter || probe.exit, "{}", probe.stem);
            assert!(!matches!(probe.reach, Reach::Tracepoint | Reach::RawTracepoint) || !probe.exit, "{}", probe.stem);
        }
    }
}

//! The layouts of the records in the ring, one for each shape of payload.
//!
//! A record is a [`Header`] followed by the payload that its probe and phase call for; see the decoder in
//! `iommu-trace/src/event` for which is which.

use crate::{COMM_LEN, NAME_LEN};

#[cfg(feature = "user")]
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! records {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)+ })+) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            #[cfg_attr(feature = "user", derive(FromBytes, IntoBytes, Immutable, KnownLayout))]
            pub struct $name { $($(#[$fdoc])* pub $field: $ty,)+ }
        )+
    };
}

records! {
    /// What every record begins with.
    struct Header {
        /// `bpf_ktime_get_ns()`, right after the record got its place in the ring: `CLOCK_MONOTONIC` in nanoseconds.
        ts: u64,
        /// The [`crate::ProbeId`].
        probe: u16,
        /// The [`crate::Phase`].
        phase: u16,
        /// The CPU it happened on.
        cpu: u32,
        /// Process (thread group) id in the initial namespace.
        pid: u32,
        /// Thread id.
        tid: u32,
        /// Id in the stack map, negative when none was taken.
        stack: i32,
        /// Bytes of payload that follow.
        len: u32,
        /// Name of the task.
        comm: [u8; COMM_LEN],
    }

    /// A page request as `struct iommu_fault` has it, copied in one piece: `type`, padding, then `prm`.
    struct Request {
        /// `IOMMU_FAULT_PAGE_REQ`: 1, whatever number this kernel has for it.
        kind: u32,
        /// The kernel's padding.
        pad: u32,
        /// `IOMMU_FAULT_PAGE_REQUEST_*` flags.
        flags: u32,
        /// PASID, meaningful when its flag is set.
        pasid: u32,
        /// Page request group index.
        grpid: u32,
        /// `IOMMU_FAULT_PERM_*`.
        perm: u32,
        /// The faulting address.
        addr: u64,
    }

    /// A `struct device` and its group.
    struct Device {
        /// Address of the `struct device`, or 0.
        ptr: u64,
        /// Address of its `struct iommu_group`, or 0.
        group: u64,
        /// The group's number, meaningful when `group` is not 0.
        group_id: i32,
        /// Zero.
        pad: u32,
        /// `dev_name()`, NUL-terminated; what follows the NUL is undefined.
        name: [u8; NAME_LEN],
    }

    /// A `struct iommu_attach_handle` and what it is embedded in.
    struct Handle {
        /// Address of the handle, or 0.
        ptr: u64,
        /// Its `domain`.
        domain: u64,
        /// The `struct device` it is for: `idev->dev` of iommufd, `dev` of SVA; else 0.
        device: u64,
        /// Address of the `struct iommufd_device`, or 0.
        idev: u64,
        /// The domain's type.
        domain_type: u32,
        /// iommufd's object id of the device, or [`crate::NO_ID`] or 0 (no object has it) for none.
        device_id: u32,
        /// One of [`crate::owner`].
        owner: u32,
        /// Zero.
        pad: u32,
    }

    /// Entry of an attach, replace or detach.
    struct Attach {
        /// The device where the function is given one (or the handle's); always the group.
        device: Device,
        /// The handle passed by the caller.
        handle: Handle,
        /// The domain to attach or detach.
        domain: u64,
        /// `group->domain` at entry.
        old_domain: u64,
        /// `group->default_domain` at entry.
        default_domain: u64,
        /// `group->owner` at entry: who claimed DMA ownership.
        dma_owner: u64,
        /// `domain->type`.
        domain_type: u32,
        /// Type of `old_domain`.
        old_domain_type: u32,
        /// PASID, 0 for the RID.
        pasid: u32,
        /// Owner of `domain`, one of [`crate::owner`].
        domain_owner: u32,
    }

    /// Return of a function.
    struct Return {
        /// What it returned; 0 for `void` functions.
        ret: i64,
    }

    /// Return of `iommu_attach_handle_get`.
    struct Lookup {
        /// The `struct iommu_group` that was searched.
        group: u64,
        /// When `handle` had been read through to the device id.
        id_ts: u64,
        /// 0, or the error.
        ret: i64,
        /// What was found.
        handle: Handle,
        /// The group's number.
        group_id: i32,
        /// The PASID that was searched.
        pasid: u32,
        /// The domain type asked for, 0 for any.
        wanted_type: u32,
        /// Zero.
        pad: u32,
    }

    /// Entry of `iommu_report_device_fault`.
    struct Report {
        /// The faulting device.
        device: Device,
        /// Address of the `struct iopf_fault` passed.
        evt: u64,
        /// What it holds.
        request: Request,
    }

    /// A `struct iopf_group` in a handler, a response, a dequeue or a free.
    struct Group {
        /// Address of the group.
        group: u64,
        /// Its attach handle.
        handle: u64,
        /// The handle's domain, or 0 where it was not followed.
        domain: u64,
        /// The `struct iommufd_fault` of the domain's page table, where iommufd's handler is given the group; or 0.
        queue: u64,
        /// `fault_param->dev`.
        device: u64,
        /// Requests in it.
        count: u64,
        /// Its last fault.
        request: Request,
        /// iommufd's cookie.
        cookie: u32,
        /// Response code, where it is a response.
        code: u32,
    }

    /// Entry of a driver's `page_response` op.
    struct PageResponse {
        /// The device answered.
        device: u64,
        /// The `struct iopf_fault`: the first member of its group, or the reported one.
        evt: u64,
        /// PASID, group index and `IOMMU_PAGE_RESP_*` code, as `struct iommu_page_response` ends.
        answer: [u32; 3],
        /// Zero.
        pad: u32,
    }

    /// Entry or return of the fault file's `read` or `write`.
    struct File {
        /// The `struct file`.
        file: u64,
        /// Its fault queue object.
        fault: u64,
        /// Bytes asked for.
        count: u64,
        /// Bytes done or the error; 0 at entry.
        ret: i64,
    }

    /// One message that a `read` of the fault file gave to user space.
    struct Delivered {
        /// The fault queue object.
        fault: u64,
        /// Faulting address.
        addr: u64,
        /// Position in this read.
        index: u32,
        /// iommufd's device id, as user space sees it.
        device_id: u32,
        /// PASID.
        pasid: u32,
        /// Page request group index.
        grpid: u32,
        /// Permissions asked for.
        perm: u32,
        /// Flags.
        flags: u32,
        /// The cookie to answer with.
        cookie: u32,
        /// Zero.
        pad: u32,
    }

    /// A fault queue (`struct iopf_queue`) and a device that joins or leaves it.
    struct Queue {
        /// The queue.
        queue: u64,
        /// The device, zero for the whole queue.
        device: Device,
        /// What the function returned; 0 at entry.
        ret: i64,
    }

    /// An iommufd object, and a second pointer where the function has one.
    struct Object {
        /// Address of the object.
        ptr: u64,
        /// `iommufd_auto_response_faults`: the handle.
        other: u64,
        /// `obj.id`, or [`crate::NO_ID`].
        id: u32,
        /// `obj.type`.
        kind: u32,
    }

    /// A call of iommufd on one of its devices.
    struct Iommufd {
        /// The `struct iommufd_device`.
        idev: u64,
        /// Its device.
        device: Device,
        /// What was returned; 0 at entry.
        ret: i64,
        /// Its object id.
        id: u32,
        /// PASID, 0 for the RID.
        pasid: u32,
    }

    /// `iommu_sva_bind_device` or `iommu_sva_unbind_device`.
    struct Sva {
        /// The device.
        device: Device,
        /// The bond.
        handle: Handle,
        /// The address space.
        mm: u64,
        /// 0 or the error.
        ret: i64,
        /// The PASID of `mm`, or [`crate::NO_ID`].
        pasid: u32,
        /// `users` of the bond.
        users: u32,
    }

    /// Return of `pci_dev_reset_iommu_prepare`.
    struct Prepared {
        /// What it returned.
        ret: i64,
        /// `group->recovery_cnt`: devices of the group that are blocked for their reset, or [`crate::NO_ID`].
        recovering: u32,
        /// Zero.
        pad: u32,
    }

    /// Just a device: group membership, reset.
    struct DeviceOnly {
        /// The device.
        device: Device,
        /// What was returned; 0 at entry.
        ret: i64,
    }

    /// Just a domain.
    struct Domain {
        /// Address.
        domain: u64,
        /// Type.
        domain_type: u32,
        /// Owner, one of [`crate::owner`].
        owner: u32,
    }

    /// One record of VT-d's fault recording registers, one entry of AMD-Vi's event log, or one event of virtio-iommu.
    struct DmaFault {
        /// The `struct intel_iommu` or `amd_iommu`, or virtio-iommu's event queue.
        iommu: u64,
        /// Faulting address; VT-d's is page aligned.
        addr: u64,
        /// The number in `dmarN`, `ivhdN` or `virtioN`.
        seq_id: u32,
        /// Requester id (bus:8, device:5, function:3).
        source: u32,
        /// VT-d: specification table "Fault Reason Encodings". AMD-Vi: the type of event. virtio-iommu: `VIRTIO_IOMMU_FAULT_R_*`.
        reason: u32,
        /// VT-d: 0 write, 1 read. Others: 0, their flags tell.
        read: u32,
        /// PASID or [`crate::NO_ID`].
        pasid: u32,
        /// VT-d: the fault status register. Others: the event's flags.
        status: u32,
    }

    /// One record of SMMUv3's event queue.
    struct SmmuFault {
        /// The device that has this stream, by the driver's own table.
        device: Device,
        /// The `struct arm_smmu_device`.
        smmu: u64,
        /// The input address; 0 for events that have none.
        addr: u64,
        /// The unit's name in `/sys/class/iommu`, NUL-terminated; what follows the NUL is undefined.
        unit: [u8; NAME_LEN],
        /// The stream id.
        stream: u32,
        /// The event's number (Arm SMMUv3 specification, 7.3).
        kind: u32,
        /// The substream id, or [`crate::NO_ID`].
        pasid: u32,
        /// The upper half of the record's second word: `PnU` is bit 1, `InD` 2, `RnW` 3, `S2` 7, `CLASS` 8 and 9.
        flags: u32,
    }

    /// The `iommu:io_page_fault` tracepoint.
    struct IoPageFault {
        /// The device.
        device: Device,
        /// Faulting address.
        iova: u64,
        /// `IOMMU_FAULT_READ` 0, `IOMMU_FAULT_WRITE` 1.
        flags: u32,
        /// Zero.
        pad: u32,
    }

    /// Return of a map or unmap.
    struct Dma {
        /// The domain.
        domain: u64,
        /// First address.
        iova: u64,
        /// Bytes asked for.
        size: u64,
        /// What was returned.
        ret: i64,
        /// From entry to return, in nanoseconds.
        duration: u64,
    }

    /// Return of a queued invalidation.
    struct Invalidate {
        /// The IOMMU.
        iommu: u64,
        /// First quadword of the first descriptor (its low 4 bits are the kind).
        desc: u64,
        /// What was returned.
        ret: i64,
        /// From entry to return, in nanoseconds.
        duration: u64,
        /// Descriptors.
        count: u32,
        /// `QI_OPT_*`; bit 0 is wait-drain.
        options: u32,
    }

    /// What calls are summed up by.
    struct SumKey {
        /// The domain, or the IOMMU of an invalidation.
        object: u64,
        /// The [`crate::ProbeId`] of the function.
        probe: u32,
        /// Kind of an invalidation: the type of VT-d's descriptor, else 0.
        kind: u32,
    }

    /// What calls came to.
    struct SumValue {
        /// Calls.
        calls: u64,
        /// Those that failed.
        failed: u64,
        /// Bytes mapped or unmapped; descriptors of an invalidation.
        amount: u64,
        /// Time from entry to return where it is taken, in nanoseconds.
        duration: u64,
        /// Calls by their duration: up to each of [`crate::SUM_BOUNDS_NS`], and longer.
        within: [u32; 20],
    }

    /// What calls of one function for one domain came to on one CPU, where there is a place for them: see [`crate::near`].
    struct Near {
        /// The domain; 0 where the place is free, [`crate::near::RETIRED`] where it is about to be.
        object: u64,
        /// Calls.
        calls: u64,
        /// Those that failed.
        failed: u64,
        /// Bytes mapped or unmapped.
        amount: u64,
    }

    /// What calls came to since it was told last. Made by user space of what BPF has summed up; in recordings.
    struct Sum {
        /// Of what.
        key: SumKey,
        /// How many and how much.
        value: SumValue,
    }

    /// Entry or return of an interrupt's thread.
    struct Interrupt {
        /// The IOMMU that raised it.
        iommu: u64,
    }

    /// A free of watched memory (`check --track-frees`).
    struct Free {
        /// The address freed.
        ptr: u64,
    }

    /// Part of the snapshot: one slot of a group's `pasid_array`, or the group's own domains.
    struct Slot {
        /// Group, and one of its devices.
        device: Device,
        /// The handle, zero where the slot holds a bare domain.
        handle: Handle,
        /// The domain in the slot.
        domain: u64,
        /// Its type.
        domain_type: u32,
        /// PASID, 0 for the RID.
        pasid: u32,
        /// What this record tells, one of [`crate::slot`].
        what: u32,
        /// Owner of the domain.
        domain_owner: u32,
        /// `users` of the bond, where the handle is an SVA one.
        users: u32,
        /// Zero.
        pad: u32,
    }
}

impl SumValue {
    /// No call yet.
    pub const ZERO: SumValue = SumValue { calls: 0, failed: 0, amount: 0, duration: 0, within: [0; 20] };

    /// Both.
    #[must_use]
    pub fn plus(&self, other: &SumValue) -> SumValue {
        self.with(other, u64::wrapping_add, u32::wrapping_add)
    }

    /// What is in this, and was not in an earlier one.
    #[must_use]
    pub fn minus(&self, earlier: &SumValue) -> SumValue {
        self.with(earlier, u64::wrapping_sub, u32::wrapping_sub)
    }

    fn with(&self, other: &SumValue, long: fn(u64, u64) -> u64, short: fn(u32, u32) -> u32) -> SumValue {
        let mut within = self.within;
        for (mine, theirs) in within.iter_mut().zip(other.within) {
            *mine = short(*mine, theirs);
        }
        SumValue {
            calls: long(self.calls, other.calls),
            failed: long(self.failed, other.failed),
            amount: long(self.amount, other.amount),
            duration: long(self.duration, other.duration),
            within,
        }
    }
}

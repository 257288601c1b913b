//! The programs, by what they are for.

use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        generated::{bpf_ktime_get_ns, bpf_probe_read_kernel as read_raw},
    },
    macros::{fentry, fexit, map},
    maps::{PerCpuArray, RingBuf},
    programs::{FEntryContext, FExitContext},
};

/// Offsets of members, written before load: `device.iommu_group`, `device.kobj.name`, `iommu_group.id`, `iommu_domain.type`,
/// `iommufd_object.id`.
#[unsafe(no_mangle)]
static OFFSETS: [u32; 5] = [0; 5];

#[map]
static RING: RingBuf = RingBuf::with_byte_size(16 << 20, 0);
/// Records that found no room.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Calls and bytes: of map, of unmap.
#[map]
static SUMS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(2, 0);

/// The reader looks by itself.
const NO_WAKEUP: u64 = 1;

#[repr(C)]
struct Record<T> {
    ts: u64,
    thread: u64,
    function: u64,
    fields: T,
}

#[inline(always)]
fn offset(index: usize) -> u64 {
    // SAFETY: a read-only global, initialised before the program was loaded; the index is within.
    unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u32>().add(index)) as u64 }
}

#[inline(always)]
fn emit<T: 'static>(function: u64, fill: impl FnOnce(*mut T)) {
    let Some(mut entry) = RING.reserve::<Record<T>>(0) else {
        if let Some(lost) = LOST.get_ptr_mut(0) {
            // SAFETY: this CPU's own counter.
            unsafe { *lost += 1 };
        }
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the reserved memory is this record's; `fill` writes all the fields.
    unsafe {
        (&raw mut (*record).ts).write(bpf_ktime_get_ns());
        (&raw mut (*record).thread).write(bpf_get_current_pid_tgid());
        (&raw mut (*record).function).write(function);
        fill(&raw mut (*record).fields);
    }
    entry.submit(NO_WAKEUP);
}

/// Reads at an address that the verifier does not know; 0 where that fails.
#[inline(always)]
fn at(addr: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(addr as *const u64) }.unwrap_or(0)
}

/// As above, half a word.
#[inline(always)]
fn at32(addr: u64) -> u32 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(addr as *const u32) }.unwrap_or(0)
}

/// The device id in a handle of iommufd's: `iommufd_attach_handle.idev` is its second word, and begins with its object.
#[inline(always)]
fn device_id(handle: u64) -> u32 {
    if handle == 0 { 0 } else { at32(at(handle + 8) + offset(4)) }
}

/// What a fault is told with.
#[repr(C)]
struct Report {
    device: u64,
    name: [u8; 16],
    group: u32,
    /// `flags`, `pasid`, `grpid`, `perm`, `addr` of `struct iommu_fault_page_request`.
    request: [u32; 6],
}

// int iommu_report_device_fault(struct device *dev, struct iopf_fault *evt)
#[fentry]
pub fn report(ctx: FEntryContext) -> i32 {
    let (dev, evt): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    emit(1, |fields: *mut Report| {
        let group = at(dev + offset(0));
        let name = at(dev + offset(1));
        // SAFETY: the places are the record's; the helper checks the addresses, and the request lies at 8 in the event.
        unsafe {
            (&raw mut (*fields).device).write(dev);
            (&raw mut (*fields).group).write(at32(group + offset(2)));
            read_raw((&raw mut (*fields).name).cast(), 16, name as *const _);
            read_raw((&raw mut (*fields).request).cast(), 24, (evt + 8) as *const _);
        }
    });
    0
}

#[fexit]
pub fn reported(ctx: FExitContext) -> i32 {
    let ret: u64 = ctx.ret().unwrap_or(0);
    // SAFETY: the place is the record's.
    emit(2, |fields: *mut u64| unsafe { fields.write(ret) });
    0
}

// struct iommu_attach_handle *iommu_attach_handle_get(struct iommu_group *, ioasid_t, unsigned int type)
#[fexit]
pub fn looked_up(ctx: FExitContext) -> i32 {
    let handle: u64 = ctx.ret().unwrap_or(0);
    let pasid: u64 = ctx.arg(1);
    let id = if (handle as i64) < 0 && (handle as i64) > -4096 { 0 } else { device_id(handle) };
    // SAFETY: the place is the record's.
    emit(3, |fields: *mut [u64; 2]| unsafe { fields.write([handle, u64::from(id) << 32 | pasid & 0xffff_ffff]) });
    0
}

// int iommufd_fault_iopf_handler(struct iopf_group *group)
#[fentry]
pub fn handler(ctx: FEntryContext) -> i32 {
    let group: u64 = ctx.arg(0);
    // SAFETY: the place is the record's.
    emit(4, |fields: *mut u64| unsafe { fields.write(group) });
    0
}

// static ssize_t iommufd_fault_fops_read(struct file *filep, char __user *buf, size_t count, loff_t *ppos)
#[fexit]
pub fn delivered(ctx: FExitContext) -> i32 {
    let (file, ret): (u64, u64) = (ctx.arg(0), ctx.ret().unwrap_or(0));
    // SAFETY: the place is the record's.
    emit(5, |fields: *mut [u64; 2]| unsafe { fields.write([file, ret]) });
    0
}

// void mock_domain_page_response(struct device *dev, struct iopf_fault *evt, struct iommu_page_response *msg)
#[fentry]
pub fn response(ctx: FEntryContext) -> i32 {
    let (dev, msg): (u64, u64) = (ctx.arg(0), ctx.arg(2));
    emit(6, |fields: *mut (u64, [u32; 4])| {
        // SAFETY: the places are the record's; the helper checks the address. `pasid`, `grpid` and `code` come first.
        unsafe {
            (&raw mut (*fields).0).write(dev);
            read_raw((&raw mut (*fields).1).cast(), 12, msg as *const _);
        }
    });
    0
}

// void iopf_free_group(struct iopf_group *group)
#[fentry]
pub fn freed(ctx: FEntryContext) -> i32 {
    let group: u64 = ctx.arg(0);
    // SAFETY: the place is the record's.
    emit(7, |fields: *mut u64| unsafe { fields.write(group) });
    0
}

/// An attach, replace or detach that begins.
#[inline(always)]
fn change(function: u64, domain: u64, group: u64, handle: u64, pasid: u32) {
    emit(function, |fields: *mut [u64; 5]| {
        let ids = u64::from(at32(group + offset(2))) << 32 | u64::from(pasid);
        let kinds = u64::from(at32(domain + offset(3))) << 32 | u64::from(device_id(handle));
        // SAFETY: the place is the record's.
        unsafe { fields.write([domain, group, handle, ids, kinds]) };
    });
}

macro_rules! change {
    ($number:literal $enter:ident $exit:ident |$ctx:ident| ($domain:expr, $group:expr, $handle:expr, $pasid:expr)) => {
        #[fentry]
        pub fn $enter($ctx: FEntryContext) -> i32 {
            change($number, $domain, $group, $handle, $pasid);
            0
        }
        #[fexit]
        pub fn $exit(ctx: FExitContext) -> i32 {
            let ret: u64 = ctx.ret().unwrap_or(0);
            // SAFETY: the place is the record's.
            emit($number + 1, |fields: *mut u64| unsafe { fields.write(ret) });
            0
        }
    };
}

// int iommu_attach_group_handle(struct iommu_domain *, struct iommu_group *, struct iommu_attach_handle *)
change!(10 attach attached |ctx| (ctx.arg(0), ctx.arg(1), ctx.arg(2), 0));
// int iommu_replace_group_handle(struct iommu_group *, struct iommu_domain *, struct iommu_attach_handle *)
change!(12 replace replaced |ctx| (ctx.arg(1), ctx.arg(0), ctx.arg(2), 0));
// void iommu_detach_group_handle(struct iommu_domain *, struct iommu_group *)
change!(14 detach detached |ctx| (ctx.arg(0), ctx.arg(1), 0, 0));
// int iommu_attach_device_pasid(struct iommu_domain *, struct device *, ioasid_t, struct iommu_attach_handle *)
change!(16 attach_pasid attached_pasid |ctx| (ctx.arg(0), at(ctx.arg::<u64>(1) + offset(0)), ctx.arg(3), ctx.arg::<u64>(2) as u32));
// int iommu_replace_device_pasid(struct iommu_domain *, struct device *, ioasid_t, struct iommu_attach_handle *)
change!(18 replace_pasid replaced_pasid |ctx| (ctx.arg(0), at(ctx.arg::<u64>(1) + offset(0)), ctx.arg(3), ctx.arg::<u64>(2) as u32));
// void iommu_detach_device_pasid(struct iommu_domain *, struct device *, ioasid_t)
change!(20 detach_pasid detached_pasid |ctx| (ctx.arg(0), at(ctx.arg::<u64>(1) + offset(0)), 0, ctx.arg::<u64>(2) as u32));

#[inline(always)]
fn began(function: u64) {
    // SAFETY: the place is the record's.
    emit(function, |fields: *mut [u64; 0]| unsafe { fields.write([]) });
}

#[inline(always)]
fn ended(ctx: &FExitContext, function: u64, size: u64, ret: u64) {
    let (domain, iova): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    // SAFETY: the place is the record's.
    emit(function, |fields: *mut [u64; 4]| unsafe { fields.write([domain, iova, size, ret]) });
}

#[inline(always)]
fn add(index: u32, bytes: u64) {
    if let Some(sum) = SUMS.get_ptr_mut(index) {
        // SAFETY: this CPU's own value.
        unsafe {
            (*sum)[0] += 1;
            (*sum)[1] += bytes;
        }
    }
}

// int iommu_map(struct iommu_domain *, unsigned long iova, phys_addr_t, size_t size, int prot, gfp_t)
#[fentry]
pub fn map(_ctx: FEntryContext) -> i32 {
    began(30);
    0
}
#[fexit]
pub fn mapped(ctx: FExitContext) -> i32 {
    ended(&ctx, 31, ctx.arg(3), ctx.ret().unwrap_or(0));
    0
}
#[fexit]
pub fn map_sum(ctx: FExitContext) -> i32 {
    add(0, ctx.arg(3));
    0
}

// size_t iommu_unmap(struct iommu_domain *, unsigned long iova, size_t size)
#[fentry]
pub fn unmap(_ctx: FEntryContext) -> i32 {
    began(32);
    0
}
#[fexit]
pub fn unmapped(ctx: FExitContext) -> i32 {
    ended(&ctx, 33, ctx.arg(2), ctx.ret().unwrap_or(0));
    0
}
#[fexit]
pub fn unmap_sum(ctx: FExitContext) -> i32 {
    add(1, ctx.ret().unwrap_or(0));
    0
}

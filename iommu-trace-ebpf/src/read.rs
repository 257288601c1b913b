//! Reads kernel structures through the offsets that user space found in the running kernel's BTF.

use core::mem::offset_of;

use aya_ebpf::{
    helpers::{
        bpf_probe_read_kernel,
        generated::{bpf_probe_read_kernel as bpf_probe_read_kernel_raw, bpf_probe_read_kernel_str},
    },
    macros::map,
    maps::Array,
};
use iommu_trace_common::{
    ABSENT, Field, Late, NAME_LEN, NO_ID, Settings, owner,
    record::{Device, Handle, Request},
};

use crate::out::set;

/// Member offsets by [`Field`], written by user space before load.
#[unsafe(no_mangle)]
static OFFSETS: [u32; Field::COUNT] = [ABSENT; Field::COUNT];

/// What else user space knows of this kernel, written before load.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: Settings = Settings {
    cookie_iommufd: NO_ID,
    cookie_sva: NO_ID,
    object_device: NO_ID,
    stacks: 0,
    iommufd_pasid_arg: 0,
    attach_pasid_handle_arg: 0,
    tagged_slots: 0,
    xa_chunk_shift: 6,
    direct: 0,
    track_frees: 0,
    sums: 0,
    amd_flush_last: 0,
    late: 0,
    desc_state_size: 0,
    amd_wait_void: 0,
    page_request: 1,
    filter: 0,
};

/// One of this run's settings. Read through a volatile, so that the compiler does not take the initial values for the
/// real ones; the verifier knows the real ones and drops the branches they rule out.
macro_rules! setting {
    ($member:ident) => {
        // SAFETY: a read-only global, initialised before the program was loaded.
        unsafe { core::ptr::read_volatile(&raw const crate::read::SETTINGS.$member) }
    };
}
pub(crate) use setting;

/// What is known of iommufd while it is a module: one value, written by user space when the module comes and goes.
#[map]
static LATE: Array<Late> = Array::with_max_entries(1, 0);

/// That value.
#[inline(always)]
fn late() -> Option<*const Late> {
    LATE.get_ptr(0)
}

/// `IOMMUFD_OBJ_DEVICE`.
#[inline(always)]
fn object_device() -> u32 {
    if setting!(late) == 0 {
        return setting!(object_device);
    }
    // SAFETY: the pointer is to the map's value, which stays; user space writes whole words.
    late().map_or(NO_ID, |late| unsafe { (&raw const (*late).object_device).read_volatile() })
}

/// Whether iommufd's functions are given a PASID.
#[inline(always)]
pub fn iommufd_pasid_arg() -> bool {
    if setting!(late) == 0 {
        return setting!(iommufd_pasid_arg) != 0;
    }
    // SAFETY: as above.
    late().is_some_and(|late| unsafe { (&raw const (*late).iommufd_pasid_arg).read_volatile() } != 0)
}

/// `IOMMU_DOMAIN_SVA`, which names the owner where domains have no cookie type.
const DOMAIN_SVA: u32 = 16;

/// The offset of a member, `None` where this kernel lacks it.
#[inline(always)]
pub fn offset(field: Field) -> Option<u64> {
    let offset = known(field);
    if offset == ABSENT { None } else { Some(offset as u64) }
}

/// The offset of a member, or [`ABSENT`]: a number on every path. The compiler may use the payload of a `None` before it
/// looks which it is, and the verifier refuses to read a register that was never written.
#[inline(always)]
fn known(field: Field) -> u32 {
    match field.late() {
        Some(place) if setting!(late) != 0 => match late() {
            // SAFETY: the pointer is to the map's value, which stays; user space writes whole words.
            Some(late) => unsafe { (&raw const (*late).offsets).cast::<u32>().add(place).read_volatile() },
            None => ABSENT,
        },
        // SAFETY: a read-only global; `Field::COUNT` is its length.
        _ => unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) },
    }
}

/// Reads a `T` at a kernel address.
#[inline(always)]
pub fn at<T>(addr: u64) -> Option<T> {
    // SAFETY: the helper checks the address; a bad one gives an error.
    unsafe { bpf_probe_read_kernel(addr as *const T) }.ok()
}

/// Reads a member of the structure at `base`; `None` for `NULL`, for an absent member and for a bad address.
#[inline(always)]
pub fn get<T>(base: u64, field: Field) -> Option<T> {
    if base == 0 {
        return None;
    }
    at(base + offset(field)?)
}

/// As [`get`], for pointers, with 0 for nothing.
#[inline(always)]
pub fn ptr(base: u64, field: Field) -> u64 {
    get::<u64>(base, field).unwrap_or(0)
}

/// Copies a member of the structure at `base` to `place`; zeroes for `NULL`, an absent member and a bad address.
#[inline(always)]
pub fn copy<T>(place: *mut T, base: u64, field: Field) {
    // The helper clears the destination where it cannot read, as it cannot at the first page.
    let addr = match offset(field) {
        Some(offset) if base != 0 => base + offset,
        _ => 0,
    };
    // SAFETY: `place` has room for a `T`, and the helper checks the address.
    unsafe { bpf_probe_read_kernel_raw(place.cast(), size_of::<T>() as u32, addr as *const _) };
}

/// Reads a member of the structure at `base`; nothing for `NULL`, an absent member and a bad address.
///
/// `direct` is for what the arguments of an fentry or fexit program lead to, of which the verifier knows the types: it
/// checks the load against them, and a bad address gives 0, which the kernel sees to. A helper's call costs ten times as
/// much.
#[inline(always)]
pub fn member<T: Copy + Default>(direct: bool, base: u64, field: Field) -> T {
    match offset(field) {
        Some(offset) if base != 0 => load(direct, base + offset),
        _ => T::default(),
    }
}

/// Reads at an address: see [`member`].
#[inline(always)]
pub fn load<T: Copy + Default>(direct: bool, addr: u64) -> T {
    if direct {
        // SAFETY: the verifier allows it where the address is a member's of this type.
        unsafe { (addr as *const T).read_volatile() }
    } else {
        at(addr).unwrap_or_default()
    }
}

/// The page request in a `struct iopf_fault`, or in what has one as its first member.
#[inline(always)]
pub fn request_into(direct: bool, place: *mut Request, base: u64) {
    let offset = match offset(Field::FaultType) {
        Some(offset) if direct && base != 0 => offset,
        _ => return copy(place, base, Field::FaultType),
    };
    // As `struct iommu_fault` has them: the record is its beginning. The padding is no member.
    set!(place, {
        kind: load(true, base + offset),
        pad: 0,
        flags: load(true, base + offset + offset_of!(Request, flags) as u64),
        pasid: load(true, base + offset + offset_of!(Request, pasid) as u64),
        grpid: load(true, base + offset + offset_of!(Request, grpid) as u64),
        perm: load(true, base + offset + offset_of!(Request, perm) as u64),
        addr: load(true, base + offset + offset_of!(Request, addr) as u64),
    });
}

/// A device, its name and its group.
#[inline(always)]
pub fn device_into(place: *mut Device, dev: u64) {
    device_by(false, place, dev);
}

/// A device, its name and its group: see [`member`].
#[inline(always)]
pub fn device_by(direct: bool, place: *mut Device, dev: u64) {
    member_by(direct, place, dev, member(direct, dev, Field::DeviceIommuGroup));
}

/// A device, its name, and the group it is known to be in.
#[inline(always)]
pub fn member_into(place: *mut Device, dev: u64, group: u64) {
    member_by(false, place, dev, group);
}

#[inline(always)]
fn member_by(direct: bool, place: *mut Device, dev: u64, group: u64) {
    set!(place, { ptr: dev, group: group, group_id: member(direct, group, Field::GroupId), pad: 0 });
    // SAFETY: the place is a whole `Device`.
    name_into(direct, unsafe { &raw mut (*place).name }.cast(), dev);
}

/// The device behind a `struct pci_dev`.
#[inline(always)]
pub fn pci_device_into(place: *mut Device, pdev: u64) {
    match pci_device(pdev) {
        0 => member_into(place, 0, 0),
        dev => device_into(place, dev),
    }
}

/// The `struct device` in a `struct pci_dev`, or 0.
#[inline(always)]
pub fn pci_device(pdev: u64) -> u64 {
    match offset(Field::PciDevDevice) {
        Some(offset) if pdev != 0 => pdev + offset,
        _ => 0,
    }
}

/// `dev_name()`, which prefers `init_name`.
#[inline(always)]
pub fn name_into(direct: bool, name: *mut u8, dev: u64) {
    let mut text: u64 = member(direct, dev, Field::DeviceInitName);
    if text == 0 {
        text = member(direct, dev, Field::DeviceKobjName);
    }
    // SAFETY: the place is `NAME_LEN` bytes, and the helper checks the address.
    unsafe { bpf_probe_read_kernel_str(name.cast(), NAME_LEN as u32, text as *const _) };
}

/// `domain->type`, 0 for none.
#[inline(always)]
pub fn domain_type(domain: u64) -> u32 {
    get(domain, Field::DomainType).unwrap_or(0)
}

/// Whom a domain belongs to, as far as it tells.
#[inline(always)]
pub fn domain_owner(domain: u64) -> u32 {
    owner_by(false, domain)
}

#[inline(always)]
fn owner_by(direct: bool, domain: u64) -> u32 {
    if domain != 0 && offset(Field::DomainCookieType).is_some() {
        let cookie: u32 = member(direct, domain, Field::DomainCookieType);
        return if cookie == setting!(cookie_iommufd) {
            owner::IOMMUFD
        } else if cookie == setting!(cookie_sva) {
            owner::SVA
        } else {
            owner::UNKNOWN
        };
    }
    if member::<u32>(direct, domain, Field::DomainType) == DOMAIN_SVA {
        return owner::SVA;
    }
    owner::UNKNOWN
}

/// A handle and what it is embedded in. `domain` stands in while the core has not set the handle's own yet. Tells the
/// device it is for, 0 for none.
#[inline(always)]
pub fn handle_into(place: *mut Handle, handle: u64, domain: u64) -> u64 {
    handle_by(false, place, handle, domain)
}

/// The same: see [`member`].
#[inline(always)]
pub fn handle_by(direct: bool, place: *mut Handle, handle: u64, domain: u64) -> u64 {
    let domain = if handle == 0 {
        0
    } else if domain != 0 {
        domain
    } else {
        member(direct, handle, Field::HandleDomain)
    };
    let mut owner = if handle == 0 { owner::UNKNOWN } else { owner_by(direct, domain) };
    let mut idev = 0;
    if owner == owner::IOMMUFD {
        idev = ptr(handle, Field::IommufdHandleIdev);
    } else if owner == owner::UNKNOWN && handle != 0 && offset(Field::DomainCookieType).is_none() {
        // The domain cannot tell. Where an iommufd device object lies beside the handle, the handle is iommufd's.
        let beside = ptr(handle, Field::IommufdHandleIdev);
        if get::<u32>(beside, Field::IdevType) == Some(object_device())
            && ptr(ptr(beside, Field::IdevDev), Field::DeviceIommuGroup) != 0
        {
            owner = owner::IOMMUFD;
            idev = beside;
        }
    }
    let device = if owner == owner::SVA { ptr(handle, Field::SvaDev) } else { ptr(idev, Field::IdevDev) };
    set!(place, { ptr: handle, domain: domain, device: device, idev: idev, owner: owner, pad: 0 });
    // SAFETY: the place is a whole `Handle`.
    unsafe {
        (&raw mut (*place).domain_type).write(member(direct, domain, Field::DomainType));
        copy(&raw mut (*place).device_id, idev, Field::IdevId);
    }
    device
}

/// Whether a returned pointer is an `ERR_PTR`, and which.
#[inline(always)]
pub fn error_of(ret: u64) -> i64 {
    let ret = ret as i64;
    if (-4095..0).contains(&ret) { ret } else { 0 }
}

//! Reads kernel structures through the offsets that user space found in the running kernel's BTF.

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes};
use iommu_trace_common::{
    ABSENT, Field, NAME_LEN, NO_ID, Settings, owner,
    record::{Device, Handle},
};

/// Member offsets by [`Field`], written by user space before load.
#[unsafe(no_mangle)]
static OFFSETS: [u32; Field::COUNT] = [ABSENT; Field::COUNT];

/// What else user space knows of this kernel, written before load.
#[unsafe(no_mangle)]
static SETTINGS: Settings = Settings {
    iommufd_handler: 0,
    cookie_iommufd: NO_ID,
    cookie_sva: NO_ID,
    stacks: 0,
    iommufd_pasid_arg: 0,
    attach_pasid_handle_arg: 0,
};

/// `IOMMU_DOMAIN_SVA`, which names the owner where domains have no cookie type.
const DOMAIN_SVA: u32 = 16;

/// This run's settings. Read through a volatile, so that the compiler does not take the initial values for the real
/// ones; the verifier knows the real ones and drops the branches they rule out.
#[inline(always)]
pub fn settings() -> Settings {
    // SAFETY: a read-only global, initialised before the program was loaded.
    unsafe { core::ptr::read_volatile(&raw const SETTINGS) }
}

/// The offset of a member, `None` where this kernel lacks it.
#[inline(always)]
pub fn offset(field: Field) -> Option<u64> {
    // SAFETY: a read-only global; `Field::COUNT` is its length.
    let offset = unsafe { core::ptr::read_volatile((&raw const OFFSETS).cast::<u32>().add(field as usize)) };
    if offset == ABSENT { None } else { Some(offset as u64) }
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

/// A group that is known without a device.
#[inline(always)]
pub fn group(group: u64) -> Device {
    Device { ptr: 0, group, group_id: get(group, Field::GroupId).unwrap_or(-1), pad: 0, name: [0; NAME_LEN] }
}

/// A device, its name and its group. `dev_name()` prefers `init_name`.
#[inline(always)]
pub fn device(dev: u64) -> Device {
    let mut device = group(ptr(dev, Field::DeviceIommuGroup));
    device.ptr = dev;
    name_into(dev, &mut device.name);
    device
}

/// The device behind a `struct pci_dev`.
#[inline(always)]
pub fn pci_device(pdev: u64) -> Device {
    match offset(Field::PciDevDevice) {
        Some(offset) if pdev != 0 => device(pdev + offset),
        _ => group(0),
    }
}

#[inline(always)]
fn name_into(dev: u64, name: &mut [u8; NAME_LEN]) {
    let mut text = ptr(dev, Field::DeviceInitName);
    if text == 0 {
        text = ptr(dev, Field::DeviceKobjName);
    }
    if text != 0 {
        // SAFETY: the helper checks the address, and writes at most the buffer's length.
        let _ = unsafe { bpf_probe_read_kernel_str_bytes(text as *const u8, name) };
    }
}

/// `domain->type`, 0 for none.
#[inline(always)]
pub fn domain_type(domain: u64) -> u32 {
    get(domain, Field::DomainType).unwrap_or(0)
}

/// Whom a domain belongs to, as far as it tells.
#[inline(always)]
pub fn domain_owner(domain: u64) -> u32 {
    let settings = settings();
    if let Some(cookie) = get::<u32>(domain, Field::DomainCookieType) {
        return if cookie == settings.cookie_iommufd {
            owner::IOMMUFD
        } else if cookie == settings.cookie_sva {
            owner::SVA
        } else {
            owner::UNKNOWN
        };
    }
    if domain_type(domain) == DOMAIN_SVA {
        return owner::SVA;
    }
    if settings.iommufd_handler != 0 && ptr(domain, Field::DomainIopfHandler) == settings.iommufd_handler {
        return owner::IOMMUFD;
    }
    owner::UNKNOWN
}

/// A handle and what it is embedded in. `domain` stands in while the core has not set the handle's own yet.
#[inline(always)]
pub fn handle(handle: u64, domain: u64) -> Handle {
    let mut found = Handle {
        ptr: handle,
        domain: 0,
        device: 0,
        idev: 0,
        domain_type: 0,
        device_id: NO_ID,
        owner: owner::UNKNOWN,
        pad: 0,
    };
    if handle == 0 {
        return found;
    }
    found.domain = if domain != 0 { domain } else { ptr(handle, Field::HandleDomain) };
    found.domain_type = domain_type(found.domain);
    found.owner = domain_owner(found.domain);
    if found.owner == owner::IOMMUFD {
        found.idev = ptr(handle, Field::IommufdHandleIdev);
        found.device_id = get(found.idev, Field::IdevId).unwrap_or(NO_ID);
        found.device = ptr(found.idev, Field::IdevDev);
    } else if found.owner == owner::SVA {
        found.device = ptr(handle, Field::SvaDev);
    }
    found
}

/// Whether a returned pointer is an `ERR_PTR`, and which.
#[inline(always)]
pub fn error_of(ret: u64) -> i64 {
    let ret = ret as i64;
    if (-4095..0).contains(&ret) { ret } else { 0 }
}

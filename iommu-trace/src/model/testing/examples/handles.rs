//! Examples about slots, handles, and what a look-up finds.

use super::{interrupt, script, server, vmm};
use crate::{
    event::ProbeId,
    model::testing::{By, Dev, EINVAL, Hnd, Req, Script, dev, dev_in, domain, group, hnd},
};

/// A device that is bound to iommufd, so that its slots are known to be empty.
fn bound() -> (Dev, Script) {
    let (device, mut script) = (dev(1), script());
    vmm(&mut script).bind(&device);
    (device, script)
}

/// The second attach of a PASID succeeds.
#[must_use]
pub fn slot_occupied() -> Script {
    let (device, mut script) = bound();
    vmm(&mut script).attach(&device, 7, &hnd(1, &device));
    script.task(1300, 1300, "driver").core_attach(&device, 7, &hnd(2, &device), 0);
    script
}

/// iommufd replaces the page table of a device that it never attached, while another device of its group is.
#[must_use]
pub fn empty_slot() -> Script {
    let (a, b) = (dev_in(1, 1), dev_in(2, 1));
    let old = hnd(1, &a);
    let mut script = script();
    vmm(&mut script).bind(&a).bind(&b).attach(&a, 0, &old).replace(&b, 0, &old, &hnd(2, &b));
    script
}

/// One handle is attached to two PASIDs.
#[must_use]
pub fn handle_reused() -> Script {
    let (device, mut script) = bound();
    let handle = hnd(1, &device);
    vmm(&mut script).attach(&device, 7, &handle).attach(&device, 8, &handle);
    script
}

/// A report that was entered after a replace finds the old handle.
#[must_use]
pub fn stale_lookup() -> Script {
    let (device, mut script) = bound();
    let (old, new, req) = (hnd(1, &device), hnd(2, &device), Req::new(Some(7), 1, 0x1000));
    vmm(&mut script).attach(&device, 7, &old).replace(&device, 7, &old, &new);
    interrupt(&mut script)
        .report(&device, &req)
        .lookup(&device, 7, &old)
        .page_response(By::evt(85), &device, &req, 1)
        .reported(EINVAL);
    script
}

/// A fault finds a handle, and its attach fails.
#[must_use]
pub fn visible_before_attach() -> Script {
    let (device, mut script) = bound();
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    vmm(&mut script)
        .iommufd(ProbeId::IommufdAttach, &device, 7)
        .change(ProbeId::AttachDevicePasid, By::handle_change(&device, 7, &handle));
    interrupt(&mut script)
        .report(&device, &req)
        .lookup(&device, 7, &handle)
        .page_response(By::evt(85), &device, &req, 1)
        .reported(EINVAL);
    vmm(&mut script).ret(ProbeId::AttachDevicePasid, EINVAL).iommufd_ret(ProbeId::IommufdAttach, EINVAL);
    script
}

/// A detach whose clean-up leaves a fault waiting, until iommufd's part of it is over.
fn left_by_the_clean_up() -> (Dev, Hnd, Req, Script) {
    let (device, mut script) = bound();
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    vmm(&mut script).attach(&device, 7, &handle);
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    vmm(&mut script)
        .iommufd(ProbeId::IommufdDetach, &device, 7)
        .core_detach(&device, 7, &handle)
        .auto_response(&handle)
        .auto_responded();
    (device, handle, req, script)
}

/// A fault is read after the detach that should have answered it.
#[must_use]
pub fn use_after_detach() -> Script {
    let (device, _, req, mut script) = left_by_the_clean_up();
    vmm(&mut script).iommufd_ret(ProbeId::IommufdDetach, 0);
    server(&mut script).read(device.id, &req, 1);
    script
}

/// The same, with the handle's memory freed.
#[must_use]
pub fn use_after_free() -> Script {
    let (device, handle, req, mut script) = left_by_the_clean_up();
    vmm(&mut script).kfree(handle.handle.ptr).iommufd_ret(ProbeId::IommufdDetach, 0);
    server(&mut script).read(device.id, &req, 1);
    script
}

/// A handle is freed before its detach.
#[must_use]
pub fn freed_while_attached() -> Script {
    let (device, mut script) = bound();
    let handle = hnd(1, &device);
    vmm(&mut script)
        .attach(&device, 7, &handle)
        .iommufd(ProbeId::IommufdDetach, &device, 7)
        .lookup(&device, 7, &handle)
        .kfree(handle.handle.ptr)
        .core_detach(&device, 7, &handle)
        .auto_response(&handle)
        .auto_responded()
        .iommufd_ret(ProbeId::IommufdDetach, 0);
    script
}

/// A domain is freed before it is detached.
#[must_use]
pub fn domain_freed_attached() -> Script {
    let (device, mut script) = bound();
    vmm(&mut script).attach(&device, 7, &hnd(1, &device)).domain_free(domain(1));
    script
}

/// Of two devices in a group, the one that was attached first leaves; the group's handle still names it.
#[must_use]
pub fn device_id_dangling() -> Script {
    let (a, b) = (dev_in(1, 1), dev_in(2, 1));
    let mut script = script();
    let mut vmm = vmm(&mut script);
    vmm.bind(&a).bind(&b).attach(&a, 0, &hnd(1, &a));
    // The sibling follows the attachment: iommufd attaches it without the core.
    for (probe, device) in [(ProbeId::IommufdAttach, &b), (ProbeId::IommufdDetach, &a)] {
        vmm.iommufd(probe, device, 0).iommufd_ret(probe, 0);
    }
    vmm.unbind(&a);
    script
}

/// User space is told another device's id.
#[must_use]
pub fn device_mismatch() -> Script {
    let (device, mut script) = bound();
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    vmm(&mut script).attach(&device, 7, &handle);
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    server(&mut script).read(device.id + 5, &req, 2);
    let told = script.events.len();
    server(&mut script).write(group(1), &device, &req, &handle, 0);
    script.answer_with_cookie(told, 2);
    script
}

/// A group's second device faults, and user space is told the id of the first.
#[must_use]
pub fn wrong_device() -> Script {
    let (first, second) = (dev_in(1, 1), dev_in(2, 1));
    let mut script = script();
    let (handle, req) = (hnd(1, &first), Req::new(None, 1, 0x1000));
    vmm(&mut script).bind(&first).bind(&second).attach(&first, 0, &handle);
    interrupt(&mut script).fault(group(1), &second, &req, &handle);
    server(&mut script).read(first.id, &req, 2);
    let told = script.events.len();
    server(&mut script).write(group(1), &second, &req, &handle, 0);
    script.answer_with_cookie(told, 2);
    script
}

/// A fault reaches the handler of another domain than the one that its handle was attached with.
#[must_use]
pub fn wrong_domain() -> Script {
    let (device, mut script) = bound();
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    let mut other = handle;
    other.handle.domain = domain(5);
    vmm(&mut script).attach(&device, 7, &handle);
    interrupt(&mut script)
        .report(&device, &req)
        .lookup(&device, 7, &handle)
        .group(ProbeId::IommufdIopfHandler, group(1), &device, &req, &other, 1)
        .reported(0);
    server(&mut script).write(group(1), &device, &req, &handle, 0);
    script
}

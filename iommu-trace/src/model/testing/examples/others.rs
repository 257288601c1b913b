//! Examples about bonds, fault queues and resets, and of what the first proposal would have made of real traffic.

use super::{interrupt, script, vmm};
use crate::{
    event::{ProbeId, Ptr},
    model::testing::{By, Dev, Hnd, Req, Script, bond, dev, domain, group, hnd},
};

fn driver(script: &mut Script) -> By<'_> {
    script.task(1400, 1400, "accel-driver")
}

/// An address space that is bound `users` times.
fn bonded(users: u32) -> (Dev, Hnd, Script) {
    let (device, mut script) = (dev(1), script());
    let bond = bond(1, &device);
    // Calls from before the trace have returned.
    driver(&mut script).domain_free(domain(77)).pass(200_000_000);
    for count in 1..=users {
        let mut by = driver(&mut script);
        by.sva(ProbeId::SvaBind, &device, None, 9, 0);
        if count == 1 {
            by.core_attach(&device, 9, &bond, 0);
        }
        by.sva_bound(&device, Some(&bond), 9, count, 0);
    }
    (device, bond, script)
}

/// An unbind detaches, though another bind is not undone.
#[must_use]
pub fn sva_users() -> Script {
    let (device, bond, mut script) = bonded(2);
    driver(&mut script)
        .sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 2)
        .core_detach(&device, 9, &bond)
        .ret(ProbeId::SvaUnbind, 0);
    script
}

/// A bind returns a bond that has no device.
#[must_use]
pub fn sva_incomplete() -> Script {
    let (device, mut script) = (dev(1), script());
    let mut bond = bond(1, &device);
    bond.handle.device = Ptr::NULL;
    driver(&mut script).sva(ProbeId::SvaBind, &device, None, 9, 0).core_attach(&device, 9, &bond, 0).sva_bound(
        &device,
        Some(&bond),
        9,
        1,
        0,
    );
    script
}

/// A device leaves its fault queue twice.
#[must_use]
pub fn iopf_unbalanced() -> Script {
    let (device, mut script) = (dev(1), script());
    let mut vmm = vmm(&mut script);
    vmm.queue_add(&device, 0);
    for _ in 0..2 {
        vmm.queue_remove(&device).queue_removed(&device);
    }
    script
}

/// A reset is done twice.
#[must_use]
pub fn reset_unbalanced() -> Script {
    let (device, mut script) = (dev(1), script());
    // An attach shows that no reset is running.
    vmm(&mut script)
        .attach(&device, 0, &hnd(1, &device))
        .device(ProbeId::ResetPrepare, &device)
        .prepared(0, Some(1))
        .device(ProbeId::ResetDone, &device)
        .device(ProbeId::ResetDone, &device);
    script
}

/// A PASID is attached while the device is being reset.
#[must_use]
pub fn attach_while_blocked() -> Script {
    let (device, mut script) = (dev(1), script());
    vmm(&mut script).bind(&device);
    script.task(1500, 1500, "reset").device(ProbeId::ResetPrepare, &device).prepared(0, Some(1));
    vmm(&mut script).attach(&device, 7, &hnd(1, &device));
    script.task(1500, 1500, "reset").device(ProbeId::ResetDone, &device);
    script
}

/// A handle is detached while a fault waits, which iommufd answers.
#[must_use]
pub fn priv_unfreeable() -> Script {
    let (device, mut script) = (dev(1), script());
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    vmm(&mut script).bind(&device).attach(&device, 7, &handle);
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    vmm(&mut script)
        .iommufd(ProbeId::IommufdDetach, &device, 7)
        .core_detach(&device, 7, &handle)
        .auto_response(&handle)
        .respond(group(1), &device, &req, &handle, 1)
        .free(group(1), &device, &req, &handle)
        .auto_responded()
        .iommufd_ret(ProbeId::IommufdDetach, 0);
    script
}

/// A handle is detached while a report has found it and is held up.
#[must_use]
pub fn freed_while_referenced() -> Script {
    let (device, mut script) = (dev(1), script());
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    vmm(&mut script).bind(&device).attach(&device, 7, &handle);
    interrupt(&mut script).report(&device, &req).lookup(&device, 7, &handle);
    vmm(&mut script).detach(&device, 7, &handle);
    script
}

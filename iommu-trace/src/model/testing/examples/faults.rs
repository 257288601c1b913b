//! Examples about page requests, their groups and their answers.

use super::{SECOND, interrupt, script, server, vmm};
use crate::{
    event::ProbeId,
    model::testing::{Dev, EINVAL, ENOENT, Hnd, Req, Script, dev, group, hnd},
};

/// A device with a handle, in a fault queue.
fn faulting() -> (Dev, Hnd, Req, Script) {
    let (device, mut script) = (dev(1), script());
    let handle = hnd(1, &device);
    vmm(&mut script).bind(&device).queue_add(&device, 0).attach(&device, 0, &handle);
    (device, handle, Req::new(None, 3, 0x1000), script)
}

/// A page request that nobody answers.
#[must_use]
pub fn fault_unanswered() -> Script {
    let (device, handle, req, mut script) = faulting();
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    server(&mut script).read(device.id, &req, 1);
    script.pass(11 * SECOND);
    script
}

/// A report that finds no handler fails, and does not answer.
#[must_use]
pub fn fault_dropped() -> Script {
    let (device, _, _, mut script) = faulting();
    let req = Req::new(Some(5), 3, 0x1000);
    interrupt(&mut script).report(&device, &req).lookup_fails(&device, 5, ENOENT).reported(EINVAL);
    script
}

/// User space's answer is given, and then the core answers, too.
#[must_use]
pub fn double_response() -> Script {
    let (device, handle, req, mut script) = faulting();
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    server(&mut script).file(ProbeId::FaultWrite).respond(group(1), &device, &req, &handle, 0);
    vmm(&mut script).queue_remove(&device).page_response(group(1), &device, &req, 1);
    script
}

/// A fault queue is destroyed with a group in it that was read.
#[must_use]
pub fn group_leak() -> Script {
    let (device, handle, req, mut script) = faulting();
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    server(&mut script).read(device.id, &req, 1);
    vmm(&mut script).fault_destroy().fault_destroyed();
    script
}

/// A group that user space has answered is answered by the detach once more.
#[must_use]
pub fn group_use_after_free() -> Script {
    let (device, handle, req, mut script) = faulting();
    interrupt(&mut script).fault(group(1), &device, &req, &handle);
    server(&mut script).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    vmm(&mut script)
        .iommufd(ProbeId::IommufdDetach, &device, 0)
        .core_detach(&device, 0, &handle)
        .auto_response(&handle)
        .respond(group(1), &device, &req, &handle, 1)
        .free(group(1), &device, &req, &handle)
        .auto_responded()
        .iommufd_ret(ProbeId::IommufdDetach, 0);
    script
}

/// The last request of a group comes, and one that came before is not taken into the group.
#[must_use]
pub fn partial_leak() -> Script {
    let (device, handle, last, mut script) = faulting();
    // Reports that were entered before the trace are through.
    script.pass(SECOND);
    interrupt(&mut script)
        .report(&device, &Req::partial(None, 3, 0x2000))
        .lookup(&device, 0, &handle)
        .reported(0)
        .fault(group(1), &device, &last, &handle);
    server(&mut script).write(group(1), &device, &last, &handle, 0);
    script
}

//! Attach, replace, detach.

use super::{changes, names};
use crate::{
    event::{Change, DeviceRef, DomainType, HandleRef, Name, OwnerHint, ProbeId, Ptr},
    model::{
        ModelOptions,
        span::Owner,
        testing::{BLOCKING, By, DEFAULT, DMA_OWNER, EBUSY, Script, bond, dev, dev_in, domain, hnd, kernel_7_3},
    },
};

#[test]
fn an_attach_of_a_group_with_its_domain_switch_is_one_attach() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(10).bind(&device).attach(&device, 0, &handle);
    let effects = script.run();
    assert_eq!(names(&effects), ["replace", "iommufd_bind", "attach"]);
    let (span, attach) = changes(&effects)[1];
    assert_eq!(attach.group, Some(1));
    assert_eq!(attach.device, Some(device.device.name));
    assert_eq!(attach.handle, Some(handle.handle.ptr));
    assert_eq!(attach.domain, handle.handle.domain);
    assert_eq!(attach.old_domain, Some(BLOCKING));
    assert_eq!((attach.owner, attach.device_id), (Owner::Iommufd, Some(2)));
    assert_eq!((attach.ret, attach.function), (0, "iommu_attach_group_handle"));
    assert_eq!(attach.duration_ns, 300);
    assert_eq!(span.tid, 10);
}

#[test]
fn taking_dma_ownership_is_a_replace_by_the_kernel() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).bind(&device);
    let effects = script.run();
    let (_, replace) = changes(&effects)[0];
    assert_eq!((replace.owner, replace.device_id), (Owner::Kernel, None));
    assert_eq!((replace.domain, replace.old_domain), (BLOCKING, Some(DEFAULT)));
    assert_eq!(replace.domain_type, DomainType::BLOCKED);
}

#[test]
fn a_detach_tells_the_handle_that_was_in_the_slot() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(10).attach(&device, 5, &handle).detach(&device, 5, &handle);
    let effects = script.run();
    assert_eq!(names(&effects), ["attach", "detach"]);
    let (_, detach) = changes(&effects)[1];
    assert_eq!(detach.handle, Some(handle.handle.ptr));
    assert_eq!((detach.pasid, detach.owner, detach.device_id), (5, Owner::Iommufd, Some(2)));
    assert_eq!(detach.domain, handle.handle.domain);
}

#[test]
fn a_replace_tells_both_handles() {
    let (device, mut script) = (dev(1), Script::new());
    let (old, new) = (hnd(1, &device), hnd(2, &device));
    script.by(10).attach(&device, 0, &old).replace(&device, 0, &old, &new);
    let (model, effects) = script.model(kernel_7_3(), ModelOptions::default());
    let (_, replace) = changes(&effects)[1];
    assert_eq!((replace.handle, replace.old_handle), (Some(new.handle.ptr), Some(old.handle.ptr)));
    assert_eq!(replace.old_domain, Some(old.handle.domain));
    let now = model.lookup(device.device.group, 0).expect("the slot is occupied");
    assert_eq!(now.handle, Some(new.handle.ptr));
}

#[test]
fn a_failed_attach_leaves_the_slot_as_it_was() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(10).core_attach(&device, 7, &handle, EBUSY);
    let (model, effects) = script.model(kernel_7_3(), ModelOptions::default());
    assert_eq!(changes(&effects)[0].1.ret, EBUSY);
    assert_eq!(model.lookup(device.device.group, 7), None);
}

#[test]
fn iommufd_owns_what_it_attaches_without_a_handle() {
    let (device, mut script) = (dev(3), Script::new());
    let change = Change {
        device: DeviceRef { ptr: Ptr::NULL, name: Name::default(), ..device.device },
        domain: domain(1),
        domain_type: DomainType::UNMANAGED,
        dma_owner: DMA_OWNER,
        ..Change::default()
    };
    script
        .by(10)
        .iommufd(ProbeId::IommufdAttach, &device, 0)
        .change(ProbeId::AttachGroup, change)
        .ret(ProbeId::AttachGroup, 0)
        .iommufd_ret(ProbeId::IommufdAttach, 0);
    let effects = script.run();
    let (_, attach) = changes(&effects)[0];
    assert_eq!((attach.owner, attach.device_id, attach.handle), (Owner::Iommufd, Some(4), None));
    assert_eq!(attach.device, Some(device.device.name));
}

#[test]
fn a_legacy_container_is_vfio() {
    let (device, mut script) = (dev(3), Script::new());
    let change = Change {
        device: DeviceRef { ptr: Ptr::NULL, name: Name::default(), ..device.device },
        domain: domain(1),
        dma_owner: DMA_OWNER,
        ..Change::default()
    };
    script
        .by(10)
        .change(ProbeId::AttachGroup, change)
        .ret(ProbeId::AttachGroup, 0)
        .change(ProbeId::DetachGroup, change)
        .set_domain(&device, domain(1), BLOCKING, 0)
        .ret(ProbeId::DetachGroup, 0);
    let effects = script.run();
    let (attach, detach) = (changes(&effects)[0].1, changes(&effects)[1].1);
    assert_eq!((attach.owner, detach.owner), (Owner::Vfio, Owner::Vfio));
    assert_eq!(detach.old_domain, Some(BLOCKING));
}

#[test]
fn a_driver_that_attaches_by_itself_is_the_kernel() {
    let (device, mut script) = (dev(3), Script::new());
    let change = Change { device: device.device, domain: domain(1), ..Change::default() };
    script.by(10).change(ProbeId::AttachDevice, change).ret(ProbeId::AttachDevice, 0);
    assert_eq!(changes(&script.run())[0].1.owner, Owner::Kernel);
}

#[test]
fn a_bond_is_owned_by_sva() {
    let (device, mut script) = (dev(3), Script::new());
    let bond = bond(1, &device);
    // At the entry of the attach neither the handle's domain nor its device is set.
    let change = Change {
        handle: HandleRef { ptr: bond.handle.ptr, ..HandleRef::default() },
        domain_owner: OwnerHint::Sva,
        ..By::handle_change(&device, 9, &bond)
    };
    script
        .by(10)
        .sva(ProbeId::SvaBind, &device, None, 9, 0)
        .lookup_fails(&device, 9, -2)
        .change(ProbeId::AttachDevicePasid, change)
        .ret(ProbeId::AttachDevicePasid, 0)
        .sva_bound(&device, Some(&bond), 9, 1, 0);
    let effects = script.run();
    assert_eq!(names(&effects), ["attach", "sva_bind"]);
    let (_, attach) = changes(&effects)[0];
    assert_eq!((attach.owner, attach.device_id), (Owner::Sva, None));
    assert_eq!(attach.device, Some(device.device.name));
}

#[test]
fn what_was_attached_before_the_trace_is_known_by_the_snapshot() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    let other = hnd(2, &device);
    let mut reader = script.by(1);
    reader.snapshot_begin(&device, handle.handle.domain);
    reader.snapshot_entry(&device, 0, &other).snapshot_entry(&device, 2000, &handle).snapshot_end(&device);
    script.by(10).detach(&device, 2000, &handle);
    let (model, effects) = script.model(kernel_7_3(), ModelOptions::default());
    assert_eq!(changes(&effects)[0].1.handle, Some(handle.handle.ptr));
    assert_eq!(model.lookup(device.device.group, 0).and_then(|slot| slot.device_id), Some(2));
    assert_eq!(model.lookup(device.device.group, 2000), None);
}

#[test]
fn a_group_whose_memory_is_used_again_begins_empty() {
    let (old, mut script) = (dev_in(1, 1), Script::new());
    script.by(1).snapshot_entry(&old, 0, &hnd(1, &old));
    let mut new = dev_in(2, 2);
    new.device.group = old.device.group;
    script.by(2).report(&new, &crate::model::testing::Req::new(None, 1, 0x1000));
    let (model, _) = script.model(kernel_7_3(), ModelOptions::default());
    assert_eq!(model.lookup(old.device.group, 0), None);
}

//! Rules about slots, handles and look-ups.

use super::super::broken;
use crate::{
    event::{Body, Change, HandleRef, ProbeId, Ptr},
    model::{
        Severity,
        testing::{
            BLOCKING, By, Dev, EBUSY, EINVAL, ENOENT, Hnd, Req, Script, bond, dev, dev_in, domain, group, hnd,
            kernel_6_12,
        },
    },
};

/// A device that is bound to iommufd, so that its slots are known to be empty.
fn bound(n: u32) -> (Dev, Script) {
    let (device, mut script) = (dev(n), Script::new());
    script.by(10).bind(&device);
    (device, script)
}

#[test]
fn attach_detach_and_replace_in_turn_are_lawful() {
    let (device, mut script) = bound(1);
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    for pasid in [0, 7] {
        script.by(10).attach(&device, pasid, &a).replace(&device, pasid, &a, &b).detach(&device, pasid, &b);
    }
    script.by(10).unbind(&device);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn slot_occupied_an_attach_succeeds_where_a_handle_is() {
    let (device, mut script) = bound(1);
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).attach(&device, 7, &a).core_attach(&device, 7, &b, EBUSY);
    assert_eq!(broken(&script.run()), [""; 0]);
    script.by(11).core_attach(&device, 7, &b, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["slot-occupied"]);
    let violation = &effects.violations[0];
    assert_eq!(violation.subject.handle, Some(b.handle.ptr));
    assert_eq!((violation.subject.group, violation.subject.pasid), (Some(1), Some(7)));
    let proof: Vec<_> = violation.evidence.iter().map(|piece| (piece.what, piece.task.tid)).collect();
    assert_eq!(proof, [("attach", 10), ("entry", 11), ("return", 11)]);
    assert!(violation.evidence.iter().all(|piece| piece.stack.is_some()));
}

#[test]
fn an_attach_that_overlaps_the_detach_of_that_slot_is_not_judged() {
    let (device, mut script) = bound(1);
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    let detach = Change { handle: HandleRef::default(), ..By::handle_change(&device, 7, &a) };
    script.by(10).core_attach(&device, 7, &a, 0).change(ProbeId::DetachDevicePasid, detach);
    // The detach has let the group's lock go, and its return is yet to come.
    script.by(11).core_attach(&device, 7, &b, 0);
    script.by(10).ret(ProbeId::DetachDevicePasid, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn empty_slot_a_detach_hits_nothing() {
    let (device, mut script) = bound(1);
    script.by(10).core_detach(&device, 7, &hnd(1, &device));
    assert_eq!(broken(&script.run()), ["empty-slot"]);
}

#[test]
fn empty_slot_a_pasid_is_replaced_where_nothing_is() {
    let (device, mut script) = bound(1);
    script.by(10).core_replace(&device, 7, Ptr::NULL, &hnd(1, &device), EINVAL);
    assert_eq!(broken(&script.run()), [""; 0]);
    script.by(10).core_replace(&device, 7, Ptr::NULL, &hnd(1, &device), 0);
    assert_eq!(broken(&script.run()), ["empty-slot"]);
}

#[test]
fn a_groups_replace_from_a_core_domain_acts_like_an_attach() {
    let (device, mut script) = bound(1);
    script.by(10).core_replace(&device, 0, BLOCKING, &hnd(1, &device), 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn empty_slot_iommufd_replaces_for_a_device_that_was_never_attached() {
    // Its sibling is attached, so the slot is not empty; the device itself never was.
    let (a, b) = (dev_in(1, 1), dev_in(2, 1));
    let (old, new) = (hnd(1, &a), hnd(2, &b));
    let mut script = Script::new();
    script.by(10).bind(&a).bind(&b).attach(&a, 0, &old).replace(&a, 0, &old, &new);
    assert_eq!(broken(&script.run()), [""; 0]);
    script.by(10).replace(&b, 0, &new, &hnd(3, &b));
    let effects = script.run();
    assert_eq!(broken(&effects), ["empty-slot"]);
    assert_eq!(effects.violations[0].subject.device_id, Some(b.id));
}

#[test]
fn handle_reused_one_handle_in_two_slots() {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    script.by(10).attach(&device, 7, &handle).attach(&device, 8, &handle);
    assert_eq!(broken(&script.run()), ["handle-reused"]);
}

#[test]
fn handle_reused_attached_again_while_its_faults_are_answered() {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    script.by(10).attach(&device, 7, &handle).iommufd(ProbeId::IommufdDetach, &device, 7);
    script.by(10).core_detach(&device, 7, &handle).auto_response(&handle);
    script.by(11).core_attach(&device, 8, &handle, 0);
    script.by(10).auto_responded().iommufd_ret(ProbeId::IommufdDetach, 0);
    assert_eq!(broken(&script.run()), ["handle-reused"]);
}

#[test]
fn memory_used_again_for_another_handle_is_lawful() {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    for pasid in [7, 8, 7] {
        script.by(10).attach(&device, pasid, &handle).detach(&device, pasid, &handle);
    }
    // A failed attach frees its handle, too; SVA tries one handle with several domains.
    script.by(10).core_attach(&device, 9, &handle, EINVAL).core_attach(&device, 9, &handle, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

fn report_and(script: &mut Script, device: &Dev, pasid: u32, then: impl FnOnce(&mut By<'_>)) {
    let mut by = script.by(20);
    by.report(device, &Req::new((pasid != 0).then_some(pasid), 1, 0x1000));
    then(&mut by);
    by.page_response(By::evt(20), device, &Req::new((pasid != 0).then_some(pasid), 1, 0x1000), 1).reported(EINVAL);
}

#[test]
fn stale_lookup_a_handle_is_found_that_has_left() {
    let (device, mut script) = bound(1);
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).attach(&device, 7, &a).replace(&device, 7, &a, &b);
    report_and(&mut script, &device, 7, |by| {
        by.lookup(&device, 7, &a);
    });
    let effects = script.run();
    assert_eq!(broken(&effects), ["stale-lookup"]);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["attach", "replace", "replace", "look-up"]);
}

#[test]
fn a_report_that_was_held_up_may_find_the_handle_that_has_left_since() {
    let (device, mut script) = bound(1);
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).attach(&device, 7, &a);
    script.by(20).report(&device, &Req::new(Some(7), 1, 0x1000));
    script.by(10).replace(&device, 7, &a, &b);
    script.by(20).lookup(&device, 7, &a);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn stale_lookup_nothing_is_found_where_a_handle_is() {
    let (device, mut script) = bound(1);
    let a = hnd(1, &device);
    // The report that was entered before the attach had returned may have looked before the store.
    script.by(20).report(&device, &Req::new(Some(7), 1, 0x1000));
    script.by(10).attach(&device, 7, &a);
    script.by(20).lookup_fails(&device, 7, ENOENT).reported(EINVAL);
    report_and(&mut script, &device, 7, |by| {
        by.lookup_fails(&device, 7, ENOENT);
    });
    let effects = script.run();
    assert_eq!(broken(&effects), ["fault-dropped", "stale-lookup"]);
}

#[test]
fn stale_lookup_another_slots_handle_is_found() {
    let (device, mut script) = bound(1);
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).attach(&device, 7, &a).attach(&device, 8, &b);
    report_and(&mut script, &device, 7, |by| {
        by.lookup(&device, 7, &b);
    });
    assert_eq!(broken(&script.run()), ["stale-lookup"]);
}

#[test]
fn where_the_handle_is_stored_after_the_op_a_look_up_before_the_return_is_lawful() {
    let (device, mut script) = bound(1);
    let a = hnd(1, &device);
    script.by(10).change(ProbeId::AttachDevicePasid, By::handle_change(&device, 7, &a));
    report_and(&mut script, &device, 7, |by| {
        by.lookup(&device, 7, &a);
    });
    script.by(10).ret(ProbeId::AttachDevicePasid, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn visible_before_attach_is_a_warning_where_the_handle_is_stored_before_the_op() {
    let (device, mut script) = bound(1);
    let a = hnd(1, &device);
    script.by(10).change(ProbeId::AttachDevicePasid, By::handle_change(&device, 7, &a));
    for _ in 0..2 {
        report_and(&mut script, &device, 7, |by| {
            by.lookup(&device, 7, &a);
        });
    }
    let mut failing = script.clone();
    script.by(10).ret(ProbeId::AttachDevicePasid, 0);
    let effects = script.run_on(kernel_6_12());
    assert_eq!(broken(&effects), ["visible-before-attach"]);
    assert_eq!(effects.violations[0].severity, Severity::Warning);
    failing.by(10).ret(ProbeId::AttachDevicePasid, EINVAL);
    let effects = failing.run_on(kernel_6_12());
    assert_eq!(broken(&effects), ["visible-before-attach", "visible-before-attach"]);
    assert_eq!(effects.violations[1].severity, Severity::Error);
    // Where it is stored after the op, no failing attach was ever visible.
    let effects = failing.run();
    assert_eq!(broken(&effects), ["visible-before-attach"]);
    assert_eq!(effects.violations[0].severity, Severity::Error);
}

#[test]
fn an_attach_whose_op_is_done_is_visible_by_right() {
    let (device, mut script) = bound(1);
    let a = hnd(1, &device);
    script.by(10).change(ProbeId::AttachGroupHandle, By::handle_change(&device, 0, &a));
    script.by(10).set_domain(&device, BLOCKING, a.handle.domain, 0);
    report_and(&mut script, &device, 0, |by| {
        by.lookup(&device, 0, &a);
    });
    script.by(10).ret(ProbeId::AttachGroupHandle, 0);
    assert_eq!(broken(&script.run_on(kernel_6_12())), [""; 0]);
}

#[test]
fn visible_before_attach_a_look_up_that_is_told_after_the_failure() {
    let (device, mut script) = bound(1);
    let a = hnd(1, &device);
    script.by(10).change(ProbeId::AttachDevicePasid, By::handle_change(&device, 7, &a));
    script.by(20).report(&device, &Req::new(Some(7), 1, 0x1000));
    script.by(10).ret(ProbeId::AttachDevicePasid, EINVAL);
    script.by(20).lookup(&device, 7, &a);
    let effects = script.run_on(kernel_6_12());
    assert_eq!(broken(&effects), ["visible-before-attach"]);
    assert_eq!(effects.violations[0].severity, Severity::Error);
}

/// A fault that is queued for user space, and then a detach without anything else.
fn detached_with_a_fault(clean_up: bool) -> (Dev, Hnd, Req, Script) {
    let (device, mut script) = bound(1);
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).attach(&device, 7, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(10).iommufd(ProbeId::IommufdDetach, &device, 7).core_detach(&device, 7, &handle).auto_response(&handle);
    if clean_up {
        script.by(10).respond(group(1), &device, &req, &handle, 1).free(group(1), &device, &req, &handle);
    }
    (device, handle, req, script)
}

#[test]
fn use_after_detach_what_the_clean_up_left_is_delivered_and_answered() {
    let (device, handle, req, mut script) = detached_with_a_fault(false);
    script.by(10).auto_responded().iommufd_ret(ProbeId::IommufdDetach, 0);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["use-after-detach", "use-after-detach"]);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["attach", "report", "look-up", "detach", "end of the clean-up", "delivered"]);
}

#[test]
fn until_the_clean_up_ends_user_space_may_be_first() {
    let (device, handle, req, mut script) = detached_with_a_fault(false);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    script.by(10).auto_responded().iommufd_ret(ProbeId::IommufdDetach, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn a_read_that_began_before_the_clean_up_ended_may_tell_later() {
    let (device, handle, req, mut script) = detached_with_a_fault(false);
    script.by(30).file(ProbeId::FaultRead);
    script.by(10).respond(group(1), &device, &req, &handle, 1).free(group(1), &device, &req, &handle);
    script.by(10).auto_responded().iommufd_ret(ProbeId::IommufdDetach, 0);
    script.by(30).message(device.id, &req, 1).file_ret(ProbeId::FaultRead, 40);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn use_after_detach_a_report_is_handled_after_all_is_over() {
    let (device, mut script) = bound(1);
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).attach(&device, 7, &handle);
    script.by(20).report(&device, &req).lookup(&device, 7, &handle);
    script.by(10).detach(&device, 7, &handle);
    script.by(20).group(ProbeId::IommufdIopfHandler, group(1), &device, &req, &handle, 1).reported(0);
    assert_eq!(broken(&script.run()), ["use-after-detach"]);
}

#[test]
fn use_after_detach_a_bonds_fault_is_answered_after_its_unbind() {
    let (device, mut script) = (dev(1), Script::new());
    let (bond, req) = (bond(1, &device), Req::new(Some(9), 1, 0x1000));
    script.by(10).sva(ProbeId::SvaBind, &device, None, 9, 0).core_attach(&device, 9, &bond, 0);
    script.by(10).sva_bound(&device, Some(&bond), 9, 1, 0);
    script
        .by(20)
        .report(&device, &req)
        .lookup(&device, 9, &bond)
        .group(ProbeId::SvaIopfHandler, group(1), &device, &req, &bond, 1)
        .reported(0);
    let mut lawful = script.clone();
    script.by(10).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 1).core_detach(&device, 9, &bond);
    script.by(40).respond(group(1), &device, &req, &bond, 0).free(group(1), &device, &req, &bond);
    script.by(10).ret(ProbeId::SvaUnbind, 0);
    assert_eq!(broken(&script.run()), ["use-after-detach"]);
    let mut unbinding = lawful.by(10);
    unbinding.sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 1);
    // The driver's detach drains the queue.
    let detach = By::handle_change(&device, 9, &bond);
    unbinding.change(ProbeId::DetachDevicePasid, Change { handle: HandleRef::default(), ..detach });
    lawful.by(40).respond(group(1), &device, &req, &bond, 0).free(group(1), &device, &req, &bond);
    lawful.by(10).ret(ProbeId::DetachDevicePasid, 0).ret(ProbeId::SvaUnbind, 0);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn use_after_free_with_the_memory_freed() {
    let (device, handle, req, mut script) = detached_with_a_fault(false);
    script.by(10).auto_responded().kfree(handle.handle.ptr).iommufd_ret(ProbeId::IommufdDetach, 0);
    script.by(30).write(group(1), &device, &req, &handle, 0);
    assert_eq!(broken(&script.run()), ["freed-while-attached", "use-after-free"]);
}

#[test]
fn use_after_detach_when_the_memory_has_another_life() {
    let (device, handle, req, mut script) = detached_with_a_fault(false);
    script.by(10).auto_responded().iommufd_ret(ProbeId::IommufdDetach, 0).attach(&device, 7, &handle);
    script.by(30).write(group(1), &device, &req, &handle, 0);
    assert_eq!(broken(&script.run()), ["use-after-detach"]);
}

#[test]
fn freed_while_attached() {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    script.by(10).attach(&device, 7, &handle);
    let mut lawful = script.clone();
    script.by(11).kfree(handle.handle.ptr);
    assert_eq!(broken(&script.run()), ["freed-while-attached"]);
    lawful.by(10).detach(&device, 7, &handle).kfree(handle.handle.ptr);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn freed_while_attached_with_a_fault_group_left() {
    let (_, handle, _, mut script) = detached_with_a_fault(false);
    script.by(10).auto_responded().kfree(handle.handle.ptr).iommufd_ret(ProbeId::IommufdDetach, 0);
    assert_eq!(broken(&script.run()), ["freed-while-attached"]);
    let (_, handle, _, mut script) = detached_with_a_fault(true);
    script.by(10).auto_responded().kfree(handle.handle.ptr).iommufd_ret(ProbeId::IommufdDetach, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn domain_freed_attached() {
    let (device, mut script) = bound(1);
    let handle = hnd(1, &device);
    script.by(10).attach(&device, 7, &handle);
    let mut lawful = script.clone();
    script.by(10).domain_free(handle.handle.domain);
    let effects = script.run();
    assert_eq!(broken(&effects), ["domain-freed-attached"]);
    assert_eq!(effects.violations[0].subject.domain, Some(handle.handle.domain));
    lawful.by(10).detach(&device, 7, &handle).domain_free(handle.handle.domain).domain_free(domain(99));
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn device_id_dangling_the_first_of_a_group_is_unbound() {
    let (a, b) = (dev_in(1, 1), dev_in(2, 1));
    let handle = hnd(1, &a);
    let mut script = Script::new();
    script.by(10).bind(&a).bind(&b).attach(&a, 0, &handle);
    // The sibling follows the attachment: iommufd attaches it without the core. Then the first one leaves.
    for (probe, device) in [(ProbeId::IommufdAttach, &b), (ProbeId::IommufdDetach, &a)] {
        script.by(10).iommufd(probe, device, 0).iommufd_ret(probe, 0);
    }
    script.by(10).unbind(&a);
    let effects = script.run();
    assert_eq!(broken(&effects), ["device-id-dangling"]);
    assert_eq!(effects.violations[0].subject.device_id, Some(a.id));
}

#[test]
fn device_id_dangling_not_of_a_new_device_at_the_old_ones_address() {
    let (old, mut new) = (dev(1), dev(2));
    new.idev = old.idev;
    let mut script = Script::new();
    script.by(10).bind(&old);
    // The unbind frees the object, and is held up before it returns; its address is given out again meanwhile.
    script.by(11).iommufd(ProbeId::IommufdUnbind, &old, 0).iommufd(ProbeId::IommufdDeviceDestroy, &old, 0);
    script.by(11).iommufd_ret(ProbeId::IommufdDeviceDestroy, 0);
    script.by(12).bind(&new).attach(&new, 0, &hnd(1, &new));
    script.by(11).iommufd_ret(ProbeId::IommufdUnbind, 0);
    let mut kept = script.clone();
    assert_eq!(broken(&script.run()), [""; 0]);
    // And the new one is still known: its own unbind is judged.
    kept.by(12).unbind(&new);
    assert_eq!(broken(&kept.run()), ["device-id-dangling"]);
}

#[test]
fn device_mismatch() {
    let (a, b) = (dev(1), dev(2));
    let (handle, foreign) = (hnd(1, &a), hnd(1, &b));
    let mut script = Script::new();
    script.by(10).bind(&a).bind(&b).attach(&a, 7, &handle).attach(&b, 7, &hnd(2, &b));
    let mut elsewhere = script.clone();
    report_and(&mut elsewhere, &a, 7, |by| {
        by.lookup(&b, 7, &hnd(2, &b));
    });
    assert_eq!(broken(&elsewhere.run()), ["device-mismatch"]);
    // The handle in the slot of `a` reads as one of `b` now.
    report_and(&mut script, &a, 7, |by| {
        by.lookup(&a, 7, &foreign);
    });
    assert_eq!(broken(&script.run()), ["device-mismatch"]);
}

#[test]
fn device_mismatch_user_space_is_told_another_id() {
    let (device, mut script) = bound(1);
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).attach(&device, 7, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id + 5, &req, 2);
    let told = script.events.len();
    script.by(30).write(group(1), &device, &req, &handle, 0);
    // The group comes back with the cookie of that message.
    for event in &mut script.events[told..] {
        if let Body::FaultGroup(group) = &mut event.body {
            group.cookie = 2;
        }
    }
    let effects = script.run();
    assert_eq!(broken(&effects), ["device-mismatch"]);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["attach", "report", "look-up", "delivery"]);
}

/// A group of two devices, the first attached; the second's fault is delivered with this id.
fn siblings(id: u32) -> Script {
    let (first, second) = (dev_in(1, 1), dev_in(2, 1));
    let (handle, req) = (hnd(1, &first), Req::new(None, 1, 0x1000));
    let mut script = Script::new();
    script.by(10).bind(&first).bind(&second).attach(&first, 0, &handle);
    script.by(20).fault(group(1), &second, &req, &handle);
    script.by(30).read(id, &req, 1);
    let told = script.events.len();
    script.by(30).write(group(1), &second, &req, &handle, 0);
    script.answer_with_cookie(told, 1);
    script
}

#[test]
fn wrong_device_a_sibling_s_fault_is_told_with_the_first_device_s_id() {
    let effects = siblings(dev_in(1, 1).id).run();
    assert_eq!(broken(&effects), ["wrong-device"]);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["bind", "attach", "report", "delivery"]);
    let message = &effects.violations[0].message;
    assert!(message.contains("0000:00:00.2 (device id 3)") && message.ends_with("device id 2"), "{message}");
    // As a kernel would have it.
    assert_eq!(broken(&siblings(dev_in(2, 1).id).run()), [""; 0]);
    // Neither's.
    assert_eq!(broken(&siblings(77).run()), ["device-mismatch"]);
}

#[test]
fn wrong_device_is_not_told_where_the_bind_was_not_seen() {
    let mut script = siblings(dev_in(1, 1).id);
    // From the attach on.
    let attach = script.events.iter().position(|event| event.probe == ProbeId::AttachGroupHandle).unwrap();
    script.events.drain(..attach);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn wrong_domain() {
    let (device, mut script) = bound(1);
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    let mut other = handle;
    other.handle.domain = domain(5);
    script.by(10).attach(&device, 7, &handle);
    let mut found = script.clone();
    script
        .by(20)
        .report(&device, &req)
        .lookup(&device, 7, &handle)
        .group(ProbeId::IommufdIopfHandler, group(1), &device, &req, &other, 1)
        .reported(0);
    script.by(30).write(group(1), &device, &req, &handle, 0);
    assert_eq!(broken(&script.run()), ["wrong-domain"]);
    report_and(&mut found, &device, 7, |by| {
        by.lookup(&device, 7, &other);
    });
    assert_eq!(broken(&found.run()), ["wrong-domain"]);
}

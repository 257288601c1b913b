//! Rules about faults and their groups.

use super::super::broken;
use crate::{
    event::{ProbeId, Ptr},
    model::{
        ModelOptions,
        testing::{By, Dev, EINVAL, ENOENT, Hnd, Req, Script, dev, domain, group, hnd, kernel_7_3},
    },
};

const SECOND: u64 = 1_000_000_000;

/// A device with a handle, in a fault queue.
fn faulting() -> (Dev, Hnd, Req, Script) {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(10).bind(&device).queue_add(&device, 0).attach(&device, 0, &handle);
    (device, handle, Req::new(None, 3, 0x1000), script)
}

#[test]
fn fault_unanswered_after_the_time_out() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(20).report(&device, &Req::partial(None, 4, 0)).lookup(&device, 0, &handle).reported(0);
    let (mut model, mut effects) = script.model(kernel_7_3(), ModelOptions::default());
    model.advance(script.now + 9 * SECOND, &mut effects);
    assert_eq!(broken(&effects), [""; 0]);
    model.advance(script.now + 10 * SECOND, &mut effects);
    model.advance(script.now + 20 * SECOND, &mut effects);
    assert_eq!(broken(&effects), ["fault-unanswered"]);
    model.finish(script.now + 20 * SECOND, &mut effects);
    assert_eq!(broken(&effects), ["fault-unanswered"]);
}

#[test]
fn fault_unanswered_when_its_group_is_freed() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(10).queue_remove(&device).free(group(1), &device, &req, &handle).queue_removed(&device);
    assert_eq!(broken(&script.run()), ["fault-unanswered"]);
}

#[test]
fn a_late_answer_is_still_joined() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.pass(20 * SECOND).by(30).write(group(1), &device, &req, &handle, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["fault-unanswered"]);
    assert!(super::super::faults(&effects)[0].complete);
}

#[test]
fn fault_unanswered_when_the_device_goes() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(10).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&script.run()), ["fault-unanswered", "device-id-dangling"]);
}

#[test]
fn group_leak_the_fault_queue_is_destroyed_around_a_group_that_was_read() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 1);
    let mut lawful = script.clone();
    script.by(10).fault_destroy().fault_destroyed();
    assert_eq!(broken(&script.run()), ["fault-unanswered", "group-leak"]);
    lawful
        .by(10)
        .fault_destroy()
        .respond(group(1), &device, &req, &handle, 1)
        .free(group(1), &device, &req, &handle)
        .fault_destroyed();
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn group_leak_a_group_of_that_queue_that_was_never_read() {
    // The domain's queue is known by an earlier delivery.
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    script.by(20).fault(group(2), &device, &req, &handle);
    script.by(10).fault_destroy().fault_destroyed();
    assert_eq!(broken(&script.run()), ["fault-unanswered", "group-leak"]);
}

#[test]
fn group_leak_answered_and_not_freed() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).file(ProbeId::FaultWrite).respond(group(1), &device, &req, &handle, 0);
    script.by(30).file_ret(ProbeId::FaultWrite, 8);
    assert_eq!(broken(&script.run()), [""; 0]);
    script.pass(11 * SECOND).by(40).domain_free(domain(9));
    assert_eq!(broken(&script.run()), ["group-leak"]);
}

#[test]
fn fault_dropped_a_report_fails_without_an_answer() {
    let (device, _, _, mut script) = faulting();
    let req = Req::new(Some(5), 3, 0x1000);
    script
        .by(20)
        .report(&device, &req)
        .lookup_fails(&device, 5, ENOENT)
        .page_response(By::evt(20), &device, &req, 1)
        .reported(EINVAL);
    assert_eq!(broken(&script.run()), [""; 0]);
    script.by(20).report(&device, &req).lookup_fails(&device, 5, ENOENT).reported(EINVAL);
    assert_eq!(broken(&script.run()), ["fault-dropped"]);
    // A partial request needs no answer.
    script.by(20).report(&device, &Req::partial(Some(5), 4, 0)).lookup_fails(&device, 5, ENOENT).reported(-12);
    assert_eq!(broken(&script.run()), ["fault-dropped"]);
}

#[test]
fn double_response() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).respond(group(1), &device, &req, &handle, 0);
    script.by(10).queue_remove(&device).page_response(group(1), &device, &req, 1);
    let effects = script.run();
    assert_eq!(broken(&effects), ["double-response"]);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["report", "response", "second response"]);
}

#[test]
fn double_response_a_request_that_nobody_made() {
    let (device, _, req, mut script) = faulting();
    script.pass(SECOND).by(10).page_response(Ptr(0x77), &device, &req, 0);
    assert_eq!(broken(&script.run()), ["double-response"]);
    // Of a device that was in its queue before the trace, the request may be older than that, too.
    let mut script = Script::new();
    script.by(10).page_response(Ptr(0x77), &device, &req, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn group_use_after_free() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).write(group(1), &device, &req, &handle, 0);
    let lawful = script.clone();
    script.by(10).respond(group(1), &device, &req, &handle, 1).free(group(1), &device, &req, &handle);
    assert_eq!(broken(&script.run()), ["group-use-after-free"]);
    let mut script = lawful.clone();
    script.by(10).free(group(1), &device, &req, &handle);
    assert_eq!(broken(&script.run()), ["group-use-after-free"]);
    let mut script = lawful.clone();
    script.by(30).read(device.id, &req, 1);
    assert_eq!(broken(&script.run()), ["group-use-after-free"]);
    let mut script = lawful;
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn group_use_after_free_a_device_leaves_its_queue_in_the_midst_of_a_report() {
    let (device, handle, req, mut script) = faulting();
    script.pass(SECOND).by(20).report(&device, &req).lookup(&device, 0, &handle);
    script.by(20).group(ProbeId::IommufdIopfHandler, group(1), &device, &req, &handle, 1);
    let mut lawful = script.clone();
    script.by(10).queue_remove(&device).page_response(group(1), &device, &req, 1);
    script.by(10).free(group(1), &device, &req, &handle).queue_removed(&device);
    let effects = script.run();
    assert_eq!(broken(&effects), ["group-use-after-free"]);
    assert!(effects.violations[0].message.contains("while its report goes on with it"));
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["report", "response", "free"]);
    // Once the report is through with it, whoever frees it frees it.
    lawful.by(20).reported(0);
    lawful.by(10).queue_remove(&device).page_response(group(1), &device, &req, 1);
    lawful.by(10).free(group(1), &device, &req, &handle).queue_removed(&device);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn a_read_that_began_before_the_free_may_tell_after_it() {
    let (device, handle, req, mut script) = faulting();
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).file(ProbeId::FaultRead);
    script.by(10).write(group(1), &device, &req, &handle, 0);
    script.pass(5 * SECOND).by(30).message(device.id, &req, 1).file_ret(ProbeId::FaultRead, 40);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn partial_leak_a_group_is_made_without_a_partial_request_of_it() {
    let (device, handle, last, mut script) = faulting();
    let partial = Req::partial(None, 3, 0x2000);
    script.pass(SECOND).by(20).report(&device, &partial).lookup(&device, 0, &handle).reported(0);
    let mut lawful = script.clone();
    script.by(20).fault(group(1), &device, &last, &handle);
    script.by(30).write(group(1), &device, &last, &handle, 0);
    assert_eq!(broken(&script.run()), ["partial-leak"]);
    // It was dropped with the queue's others before.
    lawful.by(20).queue_remove(&device).queue_removed(&device).queue_add(&device, 0);
    lawful.by(20).fault(group(1), &device, &last, &handle);
    lawful.by(30).write(group(1), &device, &last, &handle, 0);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn a_partial_request_that_comes_with_the_last_may_miss_its_group() {
    let (device, handle, last, mut script) = faulting();
    script.by(21).report(&device, &Req::partial(None, 3, 0x2000)).lookup(&device, 0, &handle);
    script.by(20).report(&device, &last).lookup(&device, 0, &handle);
    script.by(21).reported(0);
    script.by(20).group(ProbeId::IommufdIopfHandler, group(1), &device, &last, &handle, 1).reported(0);
    script.by(30).write(group(1), &device, &last, &handle, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn partial_leak_the_device_goes_without_leaving_its_queue() {
    let (device, handle, _, mut script) = faulting();
    script.by(20).report(&device, &Req::partial(None, 9, 0x2000)).lookup(&device, 0, &handle).reported(0);
    let mut lawful = script.clone();
    script.by(10).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&script.run()), ["partial-leak", "device-id-dangling"]);
    lawful.by(10).queue_remove(&device).queue_removed(&device).detach(&device, 0, &handle);
    lawful.by(10).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

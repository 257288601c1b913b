//! Faults, from report to free.

use super::{faults, names};
use crate::{
    event::{ProbeId, Ptr, ResponseCode},
    model::{
        Measure, ModelOptions,
        span::{Answerer, Response, SpanKind, Stage},
        testing::{EINVAL, ENOENT, Req, Script, bond, dev, group, hnd, kernel_6_12, kernel_7_3},
    },
};

const SUCCESS: Response = Response(Some(ResponseCode::Success));
const INVALID: Response = Response(Some(ResponseCode::Invalid));

#[test]
fn a_fault_is_joined_from_report_to_free() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(5), 3, 0xdead_0000));
    script.by(10).attach(&device, 5, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 77).write(group(1), &device, &req, &handle, 0);
    let effects = script.run();
    assert_eq!(names(&effects), ["attach", "fault"]);
    let fault = faults(&effects)[0];
    assert_eq!((fault.group, fault.device), (Some(1), device.device.name));
    assert_eq!((fault.pasid, fault.grpid, fault.addr), (Some(5), 3, 0xdead_0000));
    assert_eq!((fault.handle, fault.device_id), (Some(handle.handle.ptr), Some(2)));
    assert_eq!((fault.delivered_id, fault.cookie), (Some(2), Some(77)));
    assert_eq!((fault.ret, fault.lookups, fault.requests), (Some(0), 1, Some(1)));
    assert_eq!((fault.response, fault.answered_by), (SUCCESS, Some(Answerer::User)));
    assert_eq!((fault.lookup_ns, fault.device_id_ns, fault.handler_ns), (Some(100), Some(140), Some(200)));
    assert_eq!((fault.delivered_ns, fault.response_ns, fault.freed_ns), (Some(500), Some(900), Some(1000)));
    assert!(fault.last && fault.complete);
}

#[test]
fn with_user_pasid_tables_the_second_look_up_decides() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(5), 3, 0x1000));
    script.by(20).report(&device, &req).lookup_fails(&device, 5, ENOENT).lookup(&device, 0, &handle).group(
        ProbeId::IommufdIopfHandler,
        group(1),
        &device,
        &req,
        &handle,
        1,
    );
    script.by(20).reported(0);
    script.by(30).write(group(1), &device, &req, &handle, 1);
    let effects = script.run();
    let fault = faults(&effects)[0];
    assert_eq!((fault.lookups, fault.handle, fault.device_id), (2, Some(handle.handle.ptr), Some(2)));
    assert_eq!((fault.lookup_ns, fault.response), (Some(200), INVALID));
}

#[test]
fn a_request_without_a_handler_is_answered_by_the_report_and_ends_with_it() {
    let (device, mut script) = (dev(1), Script::new());
    let req = Req::new(None, 3, 0x1000);
    script
        .by(20)
        .report(&device, &req)
        .lookup_fails(&device, 0, ENOENT)
        .page_response(crate::model::testing::By::evt(20), &device, &req, 1)
        .reported(EINVAL);
    let effects = script.run();
    let fault = faults(&effects)[0];
    assert_eq!((fault.ret, fault.response, fault.answered_by), (Some(EINVAL), INVALID, Some(Answerer::Report)));
    assert_eq!((fault.handle, fault.lookup_ns, fault.freed_ns), (None, None, None));
    assert!(fault.complete);
}

#[test]
fn a_group_on_the_stack_ends_with_its_report() {
    // Without memory for a group the core aborts with one on its stack, and that is never freed.
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    script
        .by(20)
        .report(&device, &req)
        .lookup(&device, 0, &handle)
        .respond(Ptr(0xffff_c000), &device, &req, &handle, 2)
        .reported(0);
    let effects = script.run();
    let fault = faults(&effects)[0];
    assert_eq!(fault.response, Response(Some(ResponseCode::Failure)));
    assert!(fault.complete);
}

#[test]
fn partial_requests_join_the_group_of_their_last() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    let (first, second) = (Req::partial(None, 3, 0x1000), Req::partial(None, 3, 0x2000));
    let (other, last) = (Req::partial(None, 4, 0x4000), Req::new(None, 3, 0x3000));
    for req in [&first, &other, &second] {
        script.by(20).report(&device, req).lookup(&device, 0, &handle).reported(0);
    }
    script.by(20).report(&device, &last).lookup(&device, 0, &handle).group(
        ProbeId::IommufdIopfHandler,
        group(1),
        &device,
        &last,
        &handle,
        3,
    );
    script.by(20).reported(0);
    let mut reader = script.by(30);
    reader.file(ProbeId::FaultRead);
    for req in [&first, &second, &last] {
        reader.message(device.id, req, 9);
    }
    reader.file_ret(ProbeId::FaultRead, 120).write(group(1), &device, &last, &handle, 0);
    script.by(20).queue_remove(&device).queue_removed(&device);
    let effects = script.run();
    let told: Vec<_> = faults(&effects).iter().map(|f| (f.addr, f.last, f.requests, f.cookie, f.complete)).collect();
    assert_eq!(
        told,
        [
            (0x1000, false, Some(3), Some(9), true),
            (0x2000, false, Some(3), Some(9), true),
            (0x3000, true, Some(3), Some(9), true),
            (0x4000, false, None, None, true),
        ]
    );
    let answers: Vec<_> = faults(&effects).iter().map(|f| f.response).collect();
    assert_eq!(answers, [Response(None), Response(None), SUCCESS, Response(None)]);
}

#[test]
fn faults_on_several_cpus_at_once_are_told_apart_by_thread_and_group() {
    let (a, b, mut script) = (dev(1), dev(2), Script::new());
    let (ha, hb) = (hnd(1, &a), hnd(2, &b));
    let req = Req::new(None, 3, 0x1000);
    script.by(20).report(&a, &req);
    script.by(21).report(&b, &req);
    script.by(21).lookup(&b, 0, &hb);
    script.by(20).lookup(&a, 0, &ha);
    script.by(20).group(ProbeId::IommufdIopfHandler, group(1), &a, &req, &ha, 1);
    script.by(21).group(ProbeId::IommufdIopfHandler, group(2), &b, &req, &hb, 1);
    script.by(30).write(group(2), &b, &req, &hb, 1);
    script.by(20).reported(0);
    script.by(21).reported(0);
    script.by(30).write(group(1), &a, &req, &ha, 0);
    let effects = script.run();
    let told: Vec<_> = faults(&effects).iter().map(|f| (f.device, f.device_id, f.response, f.ret)).collect();
    assert_eq!(told, [(b.device.name, Some(3), INVALID, Some(0)), (a.device.name, Some(2), SUCCESS, Some(0))]);
}

#[test]
fn the_same_request_again_is_another_fault_and_group_memory_is_used_again() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    for cookie in 1..=3 {
        script.by(20).fault(group(1), &device, &req, &handle);
        script.by(30).read(device.id, &req, cookie).write(group(1), &device, &req, &handle, 0);
    }
    // Twice at once: the messages come in the order of the faults.
    script.by(20).fault(group(1), &device, &req, &handle).fault(group(2), &device, &req, &handle);
    script.by(30).read(device.id, &req, 4).read(device.id, &req, 5);
    script.by(30).write(group(2), &device, &req, &handle, 0).write(group(1), &device, &req, &handle, 1);
    let effects = script.run();
    let told: Vec<_> = faults(&effects).iter().map(|f| (f.cookie, f.response)).collect();
    assert_eq!(told, [1, 2, 3, 5, 4].map(|cookie| (Some(cookie), if cookie == 4 { INVALID } else { SUCCESS })));
}

#[test]
fn an_answer_before_the_reports_return_still_gets_the_return() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    script.by(20).report(&device, &req).lookup(&device, 0, &handle).group(
        ProbeId::IommufdIopfHandler,
        group(1),
        &device,
        &req,
        &handle,
        1,
    );
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    script.by(20).reported(0);
    let effects = script.run();
    assert_eq!(faults(&effects).len(), 1);
    assert_eq!(faults(&effects)[0].ret, Some(0));
}

#[test]
fn a_delivery_is_known_only_when_its_read_returns() {
    // The read has taken the fault; the detach answers it; only then does the read return.
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).file(ProbeId::FaultRead);
    script
        .by(10)
        .auto_response(&handle)
        .respond(group(1), &device, &req, &handle, 1)
        .free(group(1), &device, &req, &handle)
        .auto_responded();
    script.by(30).message(device.id, &req, 8).file_ret(ProbeId::FaultRead, 40);
    let effects = script.run();
    let fault = faults(&effects)[0];
    assert_eq!((fault.cookie, fault.response, fault.answered_by), (Some(8), INVALID, Some(Answerer::Automatic)));
}

#[test]
fn who_answers_is_told_by_what_the_thread_is_in() {
    let (device, handle_of) = (dev(1), |n| hnd(n, &dev(1)));
    let req = Req::new(None, 3, 0x1000);
    let mut script = Script::new();
    let kernels = bond(2, &device);
    for n in 1..=3 {
        script.by(20).fault(group(n), &device, &req, &handle_of(1));
    }
    script.by(20).fault(group(4), &device, &req, &kernels);
    let answer = |script: &mut Script, n| {
        let (handle, device) = (if n == 4 { kernels } else { handle_of(1) }, dev(1));
        script.by(10).respond(group(n), &device, &req, &handle, 1).free(group(n), &device, &req, &handle);
    };
    script.by(10).fault_destroy();
    answer(&mut script, 1);
    script.by(10).fault_destroyed().queue_remove(&device);
    answer(&mut script, 2);
    script.by(10).queue_removed(&device).auto_response(&handle_of(1));
    answer(&mut script, 3);
    script.by(10).auto_responded();
    answer(&mut script, 4);
    let effects = script.run();
    let by: Vec<_> = faults(&effects).iter().filter_map(|fault| fault.answered_by).collect();
    assert_eq!(by, [Answerer::QueueDestroy, Answerer::QueueRemove, Answerer::Automatic, Answerer::Handler]);
}

#[test]
fn sva_handles_its_faults_on_a_worker() {
    let (device, mut script) = (dev(1), Script::new());
    let (bond, req) = (bond(1, &device), Req::new(Some(9), 3, 0x1000));
    script
        .by(20)
        .report(&device, &req)
        .lookup(&device, 9, &bond)
        .group(ProbeId::SvaIopfHandler, group(1), &device, &req, &bond, 1)
        .reported(0);
    script.by(40).respond(group(1), &device, &req, &bond, 0).free(group(1), &device, &req, &bond);
    let effects = script.run();
    let fault = faults(&effects)[0];
    assert_eq!((fault.response, fault.answered_by), (SUCCESS, Some(Answerer::Handler)));
    assert_eq!((fault.device_id, fault.delivered_ns), (None, None));
}

#[test]
fn a_handler_that_is_not_probed_is_joined_by_name_and_age() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(9), 3, 0x1000));
    for _ in 0..2 {
        script.by(20).report(&device, &req).lookup(&device, 9, &handle).reported(0);
    }
    script.by(40).respond(group(1), &device, &req, &handle, 0).free(group(1), &device, &req, &handle);
    script.by(41).page_response(group(2), &device, &req, 1).free(group(2), &device, &req, &handle);
    let effects = script.run();
    let told: Vec<_> = faults(&effects).iter().map(|f| (f.response, f.complete)).collect();
    assert_eq!(told, [(SUCCESS, true), (INVALID, true)]);
}

#[test]
fn a_driver_whose_response_is_not_probed_is_seen_at_the_core() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).respond(group(1), &device, &req, &handle, 0).free(group(1), &device, &req, &handle);
    script.events.retain(|event| event.probe != ProbeId::MockPageResponse);
    let effects = script.run();
    let fault = faults(&effects)[0];
    assert_eq!((fault.response, fault.response_ns), (SUCCESS, Some(400)));
}

#[test]
fn what_is_outstanding_at_the_end_is_told_as_incomplete() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(20).report(&device, &Req::partial(None, 4, 0x2000)).lookup(&device, 0, &handle).reported(0);
    let effects = script.run();
    let told: Vec<_> = faults(&effects).iter().map(|f| (f.addr, f.complete, f.response)).collect();
    assert_eq!(told, [(0x1000, false, Response(None)), (0x2000, false, Response(None))]);
}

#[test]
fn the_detach_of_6_12_looks_up_without_a_fault() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(10).attach(&device, 0, &handle).detach(&device, 0, &handle);
    let (model, effects) = script.model(kernel_6_12(), ModelOptions::default());
    assert_eq!(names(&effects), ["attach", "detach"]);
    assert!(model.latencies().overall().get(Measure::Lookup).is_none());
}

#[test]
fn stages_are_told_as_they_happen() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 3, 0x1000));
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    let options = ModelOptions { stages: true, ..ModelOptions::default() };
    let (_, effects) = script.model(kernel_7_3(), options);
    let stages: Vec<_> = effects
        .spans
        .iter()
        .filter_map(|span| match &span.kind {
            SpanKind::FaultStage(stage) => Some(stage.stage),
            _ => None,
        })
        .collect();
    assert_eq!(stages, Stage::ALL);
}

#[test]
fn latencies_are_kept_overall_and_by_device_and_pasid() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    for pasid in [5, 6] {
        let req = Req::new(Some(pasid), 3, 0x1000);
        script.by(20).fault(group(1), &device, &req, &handle);
        script.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &handle, 0);
    }
    let mut ticks = 0;
    let clock = Box::new(move || {
        ticks += 30;
        ticks
    });
    let (model, _) = script.model(kernel_7_3(), ModelOptions { clock: Some(clock), ..ModelOptions::default() });
    let latencies = model.latencies();
    for measure in Measure::ALL.into_iter().filter(|&measure| measure != Measure::Interrupt) {
        let histogram = latencies.overall().get(measure).expect("it was measured");
        assert_eq!(histogram.len(), 2, "{measure:?}");
    }
    assert_eq!(latencies.overall().get(Measure::Mirror).map(hdrhistogram::Histogram::max), Some(30));
    let lens: Vec<_> = latencies
        .sets()
        .map(|(key, set)| (key.pasid, set.get(Measure::Response).map(hdrhistogram::Histogram::len)))
        .collect();
    assert_eq!(lens, [(None, Some(2)), (Some(5), Some(1)), (Some(6), Some(1))]);
}

#[test]
fn two_contexts_whose_faults_say_the_same_are_told_apart_by_their_queues() {
    // Object ids and cookies begin anew in each context of iommufd.
    let (first, second, mut script) = (dev(1), dev(2), Script::new());
    let second = crate::model::testing::Dev { id: first.id, ..second };
    let (handles, req) = ((hnd(1, &first), hnd(2, &second)), Req::new(None, 3, 0x1000));
    let queues = (Ptr(0xf001), Ptr(0xf002));
    let entry = ProbeId::IommufdIopfHandler;
    for round in 0..2 {
        script.by(20).report(&first, &req).lookup(&first, 0, &handles.0);
        script.by(20).group(entry, group(1), &first, &req, &handles.0, 1).in_queue(queues.0).reported(0);
        script.by(21).report(&second, &req).lookup(&second, 0, &handles.1);
        script.by(21).group(entry, group(2), &second, &req, &handles.1, 1).in_queue(queues.1).reported(0);
        // The second is read first.
        script.by(31).file(ProbeId::FaultRead).message(second.id, &req, 1).in_queue(queues.1);
        script.by(31).file_ret(ProbeId::FaultRead, 40).write(group(2), &second, &req, &handles.1, 1);
        if round == 1 {
            script.by(30).file(ProbeId::FaultRead).message(first.id, &req, 1).in_queue(queues.0);
            script.by(30).file_ret(ProbeId::FaultRead, 40);
        }
        script.by(30).write(group(1), &first, &req, &handles.0, 0);
    }
    let effects = script.run();
    assert_eq!(effects.violations, []);
    let told: Vec<_> = faults(&effects).iter().map(|f| (f.device, f.delivered_ns.is_some(), f.response)).collect();
    let names = (first.device.name, second.device.name);
    let unread = (names.0, false, SUCCESS);
    assert_eq!(told, [(names.1, true, INVALID), unread, (names.1, true, INVALID), (names.0, true, SUCCESS)]);
}

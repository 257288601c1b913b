//! What was not seen is not judged, and counted.

use super::{broken, faults};
use crate::{
    event::{Phase, ProbeId, ResponseCode},
    model::{
        Doubt, Effects, Model, ModelOptions, ProbeSet, RuleId,
        span::Response,
        testing::{BLOCKING, DEFAULT, Req, Script, dev, group, hnd, kernel_7_3},
    },
};

fn unjudged(model: &Model) -> Vec<(RuleId, Doubt)> {
    model.judgements().unjudged.keys().copied().collect()
}

fn run(script: &Script) -> (Model, Effects) {
    script.model(kernel_7_3(), ModelOptions::default())
}

#[test]
fn a_slot_that_was_never_seen_is_not_judged() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).core_detach(&device, 7, &hnd(1, &device));
    let (model, effects) = run(&script);
    assert_eq!(broken(&effects), [""; 0]);
    assert_eq!(unjudged(&model), [(RuleId::EmptySlot, Doubt::Beginning)]);
}

#[test]
fn the_snapshot_makes_a_groups_slots_known() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(1).snapshot_begin(&device, handle.handle.domain).snapshot_entry(&device, 0, &handle);
    script.by(1).snapshot_end(&device).pass(200_000_000);
    let mut lawful = script.clone();
    script.by(10).core_detach(&device, 7, &handle).core_attach(&device, 0, &hnd(2, &device), 0);
    assert_eq!(broken(&run(&script).1), ["empty-slot", "slot-occupied"]);
    lawful.by(10).detach(&device, 0, &handle).attach(&device, 0, &hnd(2, &device));
    assert_eq!(broken(&run(&lawful).1), [""; 0]);
}

#[test]
fn what_the_snapshot_told_may_be_changed_by_a_call_from_before_the_trace() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(1).snapshot_begin(&device, handle.handle.domain).snapshot_entry(&device, 7, &handle);
    script.by(1).snapshot_end(&device);
    // The detach that made room for it was entered before the trace, and has yet to return.
    script.by(10).core_attach(&device, 7, &hnd(2, &device), 0);
    script.by(11).ret(ProbeId::DetachDevicePasid, 0);
    let (model, effects) = run(&script);
    assert_eq!(broken(&effects), [""; 0]);
    assert_eq!(unjudged(&model), [(RuleId::SlotOccupied, Doubt::Beginning)]);
}

#[test]
fn where_no_slot_was_being_changed_the_snapshot_is_certain_at_once() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(1).snapshot_begin(&device, handle.handle.domain).snapshot_entry(&device, 7, &handle);
    script.by(1).snapshot_end(&device);
    script.by(10).core_attach(&device, 7, &hnd(2, &device), 0);
    let settled = |settled| script.model(kernel_7_3(), ModelOptions { settled, ..ModelOptions::default() }).1;
    assert_eq!(broken(&settled(true)), ["slot-occupied"]);
    assert_eq!(broken(&settled(false)), [""; 0]);
}

#[test]
fn a_change_that_runs_during_the_snapshot_is_known_better_by_itself() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    script.by(1).snapshot_begin(&device, BLOCKING);
    script.by(10).attach(&device, 7, &handle);
    // The array was read before the attach had stored its handle.
    script.by(1).snapshot_end(&device);
    script.by(10).detach(&device, 7, &handle).attach(&device, 7, &handle);
    script.by(1).snapshot_begin(&device, BLOCKING);
    script.by(10).detach(&device, 7, &handle);
    script.by(1).snapshot_entry(&device, 7, &handle).snapshot_end(&device);
    script.by(10).attach(&device, 7, &hnd(2, &device));
    assert_eq!(broken(&run(&script).1), [""; 0]);
}

#[test]
fn a_domain_attached_without_a_handle_is_in_no_array() {
    // A legacy container was attached before the trace: the snapshot finds no slot, and the detach is lawful.
    let (device, mut script) = (dev(1), Script::new());
    script.by(1).snapshot_begin(&device, hnd(1, &device).handle.domain).snapshot_end(&device);
    let change = crate::event::Change { device: device.device, ..Default::default() };
    script.by(10).change(ProbeId::DetachGroup, change).ret(ProbeId::DetachGroup, 0);
    assert_eq!(broken(&run(&script).1), [""; 0]);
    let mut script = Script::new();
    script.by(1).snapshot_begin(&device, DEFAULT).snapshot_end(&device).pass(200_000_000);
    script.by(10).change(ProbeId::DetachGroup, change).ret(ProbeId::DetachGroup, 0);
    assert_eq!(broken(&run(&script).1), ["empty-slot"]);
}

#[test]
fn a_loss_makes_what_was_known_before_uncertain() {
    let (device, mut script) = (dev(1), Script::new());
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).bind(&device).attach(&device, 7, &a);
    script.by(0).lost(ProbeId::DetachDevicePasid, Phase::Exit, 3);
    script.by(10).core_attach(&device, 7, &b, 0);
    let (model, effects) = run(&script);
    assert_eq!(broken(&effects), [""; 0]);
    assert_eq!(unjudged(&model), [(RuleId::SlotOccupied, Doubt::Lost(ProbeId::DetachDevicePasid))]);
    // What has begun since is certain again.
    script.pass(200_000_000).by(10).core_detach(&device, 7, &b).core_attach(&device, 7, &a, 0);
    script.by(10).core_attach(&device, 7, &b, 0);
    assert_eq!(broken(&run(&script).1), ["slot-occupied"]);
}

#[test]
fn a_loss_is_told_with_the_time_at_which_its_counter_was_read() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).bind(&device);
    // Read at the end of the batch, given out at its beginning: the attach may itself be followed by a lost detach.
    script.by(0).lost(ProbeId::DetachDevicePasid, Phase::Enter, 1);
    let at = script.events.len() - 1;
    script.events[at].ts = script.now + 500;
    script.by(10).core_attach(&device, 7, &hnd(1, &device), 0);
    script.pass(200_000_000).by(10).core_attach(&device, 7, &hnd(2, &device), 0);
    assert_eq!(broken(&run(&script).1), [""; 0]);
}

#[test]
fn losses_of_one_topic_leave_the_others_alone() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).bind(&device).attach(&device, 7, &hnd(1, &device));
    script.by(0).lost(ProbeId::Map, Phase::Exit, 1000).lost(ProbeId::FaultRead, Phase::Exit, 10);
    script.by(10).core_attach(&device, 7, &hnd(2, &device), 0);
    assert_eq!(broken(&run(&script).1), ["slot-occupied"]);
}

#[test]
fn a_probe_that_is_not_attached_silences_the_rules_that_need_it() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 1, 0x1000));
    script.by(10).bind(&device).queue_add(&device, 0).attach(&device, 0, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.pass(60_000_000_000);
    let options = ModelOptions { unseen: ProbeSet::of(&[ProbeId::GroupResponse]), ..ModelOptions::default() };
    let (mut model, mut effects) = script.model(kernel_7_3(), options);
    model.finish(script.now, &mut effects);
    assert_eq!(broken(&effects), [""; 0]);
    assert_eq!(unjudged(&model), [(RuleId::FaultUnanswered, Doubt::Unseen(ProbeId::GroupResponse))]);
}

#[test]
fn a_call_that_began_before_the_trace_leaves_its_function_uncertain() {
    let (device, mut script) = (dev(1), Script::new());
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).bind(&device).attach(&device, 7, &a);
    script.by(11).ret(ProbeId::DetachDevicePasid, 0);
    script.by(10).core_attach(&device, 7, &b, 0);
    assert_eq!(broken(&run(&script).1), [""; 0]);
}

#[test]
fn a_return_that_was_lost_leaves_its_slot_unknown() {
    let (device, mut script) = (dev(1), Script::new());
    let (a, b) = (hnd(1, &device), hnd(2, &device));
    script.by(10).bind(&device).attach(&device, 7, &a);
    script.by(11).core_detach(&device, 7, &a);
    script.events.pop();
    // The same thread comes again: its last call must have returned.
    script.by(11).core_detach(&device, 8, &a).core_attach(&device, 7, &b, 0).core_attach(&device, 7, &a, 0);
    let (_, effects) = run(&script);
    assert_eq!(broken(&effects), ["slot-occupied"]);
}

#[test]
fn taking_dma_ownership_shows_that_a_group_is_empty() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).set_domain(&device, DEFAULT, BLOCKING, 0).core_detach(&device, 7, &hnd(1, &device));
    assert_eq!(broken(&run(&script).1), ["empty-slot"]);
}

#[test]
fn a_group_at_the_address_of_one_whose_free_was_lost_is_not_taken_for_it() {
    let (device, mut script) = (dev(1), Script::new());
    let handle = hnd(1, &device);
    let (old, new) = (Req::new(None, 1, 0x1000), Req::new(None, 2, 0x2000));
    script.by(10).attach(&device, 0, &handle);
    script.by(20).fault(group(1), &device, &old, &handle);
    // Lost: the answer and the free of the first, and the second's entry of its handler.
    script.by(30).lost(ProbeId::GroupFree, Phase::Enter, 1).lost(ProbeId::IommufdIopfHandler, Phase::Enter, 1);
    script.by(20).report(&device, &new).lookup(&device, 0, &handle).reported(0);
    script.by(30).write(group(1), &device, &new, &handle, 1);
    let (_, effects) = run(&script);
    let told: Vec<_> =
        faults(&effects).into_iter().map(|f| (f.grpid, f.response, f.freed_ns.is_some(), f.complete)).collect();
    assert_eq!(told, [(1, Response(None), false, false), (2, Response(Some(ResponseCode::Invalid)), true, true)]);
}

#[test]
fn who_answered_is_not_known_when_the_entry_of_the_write_was_lost() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(None, 1, 0x1000));
    script.by(10).attach(&device, 0, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).lost(ProbeId::FaultWrite, Phase::Enter, 1);
    script.by(30).respond(group(1), &device, &req, &handle, 0).free(group(1), &device, &req, &handle);
    let (_, effects) = run(&script);
    assert_eq!(faults(&effects)[0].answered_by, None);
}

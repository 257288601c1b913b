//! Bugs of the kinds that are known, which the rules once passed over; and that each example breaks its rule.

use super::super::broken;
use crate::{
    event::{Body, PageResponse, ProbeId},
    model::{
        Doubt, Effects, ModelOptions, RuleId, Severity,
        testing::{By, Dev, EINVAL, ENOENT, Hnd, Req, Script, bond, dev, examples::example, group, hnd, kernel_7_3},
    },
};

#[test]
fn each_example_breaks_its_rule_and_at_most_what_follows_from_that() {
    for &rule in RuleId::ALL {
        let effects = example(rule).run();
        // A handle freed too early is used after its free; a group that leaks is not answered, either; what the first
        // proposal's caller frees too early is freed by nobody else.
        let follows: &[RuleId] = match rule {
            RuleId::UseAfterFree => &[RuleId::FreedWhileAttached],
            RuleId::GroupLeak => &[RuleId::FaultUnanswered],
            RuleId::FreedWhileReferenced => &[RuleId::PrivUnfreeable],
            _ => &[],
        };
        let mut others: Vec<RuleId> = effects.violations.iter().map(|violation| violation.rule).collect();
        others.dedup();
        others.retain(|other| *other != rule);
        assert_eq!(others, follows, "{}", rule.slug());
        let violation = effects.violations.iter().find(|violation| violation.rule == rule).expect("its own");
        assert!(violation.evidence.len() >= 2, "{}: {violation:?}", rule.slug());
        assert!(violation.evidence.is_sorted_by_key(|piece| piece.ts), "{}", rule.slug());
        assert!(
            violation.subject.group.is_some() && violation.subject.device.is_some(),
            "{}: {violation:?}",
            rule.slug()
        );
    }
}

/// A device with two PASIDs, each with its handle, and a fault of the second.
fn two_pasids() -> (Dev, [Hnd; 2], Req, Script) {
    let (device, mut script) = (dev(1), Script::new());
    let (a, b, req) = (hnd(1, &device), hnd(2, &device), Req::new(Some(8), 1, 0x1000));
    script.by(10).bind(&device).queue_add(&device, 0).attach(&device, 7, &a).attach(&device, 8, &b);
    script.by(20).fault(group(1), &device, &req, &b);
    (device, [a, b], req, script)
}

#[test]
fn wrong_domain_the_clean_up_of_one_handle_answers_anothers_fault() {
    let (device, [a, b], req, mut script) = two_pasids();
    let c = hnd(3, &device);
    let mut lawful = script.clone();
    script
        .by(10)
        .iommufd(ProbeId::IommufdReplace, &device, 7)
        .core_replace(&device, 7, a.handle.domain, &c, 0)
        .auto_response(&a)
        .respond(group(1), &device, &req, &b, 1)
        .free(group(1), &device, &req, &b)
        .auto_responded()
        .iommufd_ret(ProbeId::IommufdReplace, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["wrong-domain"]);
    let subject = &effects.violations[0].subject;
    assert_eq!((subject.handle, subject.pasid), (Some(b.handle.ptr), Some(8)));
    // User space answers it on another thread meanwhile.
    lawful.by(10).iommufd(ProbeId::IommufdReplace, &device, 7).core_replace(&device, 7, a.handle.domain, &c, 0);
    lawful.by(10).auto_response(&a);
    lawful.by(30).read(device.id, &req, 1).write(group(1), &device, &req, &b, 0);
    lawful.by(10).auto_responded().iommufd_ret(ProbeId::IommufdReplace, 0);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn use_after_detach_the_clean_up_after_a_replace_is_given_the_new_handle() {
    let (device, [_, b], req, mut script) = two_pasids();
    let c = hnd(3, &device);
    script
        .by(10)
        .iommufd(ProbeId::IommufdReplace, &device, 8)
        .core_replace(&device, 8, b.handle.domain, &c, 0)
        .auto_response(&c)
        .auto_responded()
        .iommufd_ret(ProbeId::IommufdReplace, 0);
    script.by(30).read(device.id, &req, 1);
    assert_eq!(broken(&script.run()), ["use-after-detach"]);
}

#[test]
fn double_response_the_answer_names_another_request() {
    let (device, [_, b], req, script) = two_pasids();
    let answered = |device: &Dev, req: &Req| {
        let mut script = script.clone();
        script.by(30).file(ProbeId::FaultWrite).page_response(group(1), device, req, 0);
        script.by(30).free(group(1), &device_of(), &Req::new(Some(8), 1, 0x1000), &b);
        script.by(30).file_ret(ProbeId::FaultWrite, 8);
        script.run()
    };
    for (device, req) in [(device, Req { pasid: Some(7), ..req }), (device, Req { grpid: 2, ..req }), (dev(2), req)] {
        let effects = answered(&device, &req);
        assert_eq!(broken(&effects)[0], "double-response", "{req:?}");
        assert_eq!(effects.violations[0].subject.fault_group, Some(group(1)));
    }
    assert_eq!(broken(&answered(&device, &req)), [""; 0]);
}

fn device_of() -> Dev {
    dev(1)
}

#[test]
fn a_group_whose_free_was_lost_may_have_given_its_place_to_another() {
    let (device, [_, b], req, mut script) = two_pasids();
    script.by(30).lost(ProbeId::GroupFree, crate::event::Phase::Enter, 1);
    script.by(30).page_response(group(1), &device, &Req { grpid: 2, ..req }, 0);
    script.by(30).free(group(1), &device, &Req { grpid: 2, ..req }, &b);
    let (model, effects) = script.model(kernel_7_3(), ModelOptions::default());
    assert_eq!(broken(&effects), [""; 0]);
    let doubts = &model.judgements().unjudged;
    assert_eq!(doubts.get(&(RuleId::DoubleResponse, Doubt::Lost(ProbeId::GroupFree))), Some(&1), "{doubts:?}");
}

#[test]
fn fault_dropped_a_failed_report_is_answered_with_success() {
    let (device, mut script) = (dev(1), Script::new());
    let req = Req::new(Some(5), 3, 0x1000);
    let failed = |script: &mut Script, code| {
        let mut by = script.by(20);
        by.report(&device, &req).lookup_fails(&device, 5, ENOENT);
        by.page_response(By::evt(20), &device, &req, code).reported(EINVAL);
    };
    failed(&mut script, 1);
    assert_eq!(broken(&script.run()), [""; 0]);
    failed(&mut script, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["fault-dropped"]);
    assert!(effects.violations[0].message.ends_with("was answered with success"), "{}", effects.violations[0].message);
}

#[test]
fn group_use_after_free_a_group_that_was_read_is_delivered_after_its_free() {
    let (device, [_, b], req, mut script) = two_pasids();
    script.by(30).read(device.id, &req, 1);
    let told = script.events.len();
    script.by(30).write(group(1), &device, &req, &b, 0);
    script.answer_with_cookie(told, 1);
    let mut lawful = script.clone();
    script.by(30).read(device.id, &req, 2);
    assert_eq!(broken(&script.run()), ["group-use-after-free"]);
    // The device asks for the same page again.
    lawful.by(20).fault(group(2), &device, &req, &b);
    lawful.by(30).read(device.id, &req, 2).write(group(2), &device, &req, &b, 0);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

/// An address space that is bound once.
fn bonded() -> (Dev, Hnd, Script) {
    let (device, mut script) = (dev(1), Script::new());
    let bond = bond(1, &device);
    script.by(1).domain_free(crate::model::testing::domain(77)).pass(200_000_000);
    script.by(10).sva(ProbeId::SvaBind, &device, None, 9, 0).core_attach(&device, 9, &bond, 0);
    script.by(10).sva_bound(&device, Some(&bond), 9, 1, 0);
    (device, bond, script)
}

#[test]
fn sva_users_the_last_unbind_does_not_detach() {
    let (device, bond, mut script) = bonded();
    let mut lawful = script.clone();
    script.by(10).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 1).ret(ProbeId::SvaUnbind, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["sva-users"]);
    assert!(effects.violations[0].message.contains("still attached"), "{}", effects.violations[0].message);
    // Another thread binds it again before the unbind has come to its reference.
    lawful.by(11).sva(ProbeId::SvaBind, &device, None, 9, 0);
    lawful.by(10).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 1);
    lawful.by(11).sva_bound(&device, Some(&bond), 9, 2, 0);
    lawful.by(10).ret(ProbeId::SvaUnbind, 0);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

#[test]
fn device_id_dangling_a_bonds_device_leaves_its_group() {
    let (device, bond, mut script) = bonded();
    let mut lawful = script.clone();
    script.by(10).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&script.run()), ["device-id-dangling"]);
    lawful.by(10).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 1).core_detach(&device, 9, &bond);
    lawful.by(10).ret(ProbeId::SvaUnbind, 0).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

/// A device of which it is known that no reset is running.
fn known() -> (Dev, Script) {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).device(ProbeId::DeviceAdd, &device).bind(&device);
    (device, script)
}

#[test]
fn reset_unbalanced_the_device_goes_in_the_middle() {
    let (device, mut script) = known();
    script.by(10).device(ProbeId::ResetPrepare, &device).prepared(0, Some(1));
    let mut lawful = script.clone();
    script.by(10).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&script.run()), ["reset-unbalanced"]);
    lawful.by(10).device(ProbeId::ResetDone, &device).device(ProbeId::DeviceRemove, &device);
    assert_eq!(broken(&lawful.run()), [""; 0]);
}

fn attached_in_reset(blocked: Option<u32>, done_first: bool) -> Effects {
    let (device, mut script) = known();
    script.by(10).device(ProbeId::ResetPrepare, &device).prepared(0, blocked);
    if done_first {
        script.by(10).device(ProbeId::ResetDone, &device);
    }
    script.by(11).attach(&device, 7, &hnd(1, &device));
    script.run()
}

#[test]
fn attach_while_blocked_rests_on_what_prepare_did() {
    let effects = attached_in_reset(Some(1), false);
    assert_eq!(broken(&effects), ["attach-while-blocked"]);
    assert_eq!(effects.violations[0].severity, Severity::Error);
    // A device without ATS is left alone.
    assert_eq!(broken(&attached_in_reset(Some(0), false)), [""; 0]);
    assert_eq!(broken(&attached_in_reset(Some(1), true)), [""; 0]);
}

#[test]
fn a_sibling_may_be_the_one_whose_reset_blocks_the_group() {
    let (a, b) = (crate::model::testing::dev_in(1, 1), crate::model::testing::dev_in(2, 1));
    let mut script = Script::new();
    script.by(10).bind(&a);
    script.by(11).device(ProbeId::ResetPrepare, &b).prepared(0, Some(1));
    // This one has no ATS: the count that it sees is its sibling's.
    script.by(12).device(ProbeId::ResetPrepare, &a).prepared(0, Some(1));
    script.by(11).device(ProbeId::ResetDone, &b);
    script.by(10).attach(&a, 7, &hnd(1, &a));
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn a_response_without_a_group_is_not_taken_for_another() {
    // The report answers by itself, from its stack; the same stack has answered another request before.
    let (device, mut script) = (dev(1), Script::new());
    for grpid in [1, 2] {
        let req = Req::new(Some(5), grpid, 0x1000);
        let response = PageResponse { device: device.device.ptr, evt: By::evt(20), pasid: 5, grpid, code: 1 };
        let mut by = script.by(20);
        by.report(&device, &req).lookup_fails(&device, 5, ENOENT);
        by.event(ProbeId::MockPageResponse, crate::event::Phase::Enter, Body::PageResponse(response)).reported(EINVAL);
    }
    assert_eq!(broken(&script.run()), [""; 0]);
}

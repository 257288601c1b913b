//! Rules about bonds, queues, resets; the first proposal's rules; the choice of rules.

use super::super::broken;
use crate::{
    event::{ProbeId, Ptr},
    model::{
        Doubt, Effects, ModelOptions, RuleId, RuleSet, Severity,
        testing::{By, Dev, Hnd, Req, Script, bond, dev, examples::example, group, hnd, kernel_7_3},
    },
};

/// An address space that is bound `users` times.
fn bonded(users: u32) -> (Dev, Hnd, Script) {
    let (device, mut script) = (dev(1), Script::new());
    let bond = bond(1, &device);
    // Calls from before the trace have returned.
    script.by(1).domain_free(crate::model::testing::domain(77)).pass(200_000_000);
    for count in 1..=users {
        script.by(10).sva(ProbeId::SvaBind, &device, None, 9, 0);
        if count == 1 {
            script.by(10).core_attach(&device, 9, &bond, 0);
        }
        script.by(10).sva_bound(&device, Some(&bond), 9, count, 0);
    }
    (device, bond, script)
}

#[test]
fn each_bind_is_undone_by_one_unbind() {
    let (device, bond, mut script) = bonded(3);
    for users in [3, 2] {
        script.by(11).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, users).ret(ProbeId::SvaUnbind, 0);
    }
    script.by(11).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 1).core_detach(&device, 9, &bond);
    script.by(11).ret(ProbeId::SvaUnbind, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
    // The bond is gone, and unbound once more.
    script.by(12).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 0);
    assert_eq!(broken(&script.run()), ["sva-users"]);
}

#[test]
fn binds_at_once_are_not_compared() {
    let (device, bond, mut script) = bonded(1);
    script.by(11).sva(ProbeId::SvaBind, &device, None, 9, 0);
    script.by(12).sva(ProbeId::SvaBind, &device, None, 9, 0);
    // Both have taken their reference when the first returns.
    script.by(11).sva_bound(&device, Some(&bond), 9, 3, 0);
    script.by(12).sva_bound(&device, Some(&bond), 9, 3, 0);
    assert_eq!(broken(&script.run()), [""; 0]);
}

#[test]
fn sva_users_a_bind_takes_no_reference() {
    let (device, bond, mut script) = bonded(1);
    script.by(10).sva(ProbeId::SvaBind, &device, None, 9, 0).sva_bound(&device, Some(&bond), 9, 1, 0);
    assert_eq!(broken(&script.run()), ["sva-users"]);
}

#[test]
fn sva_users_the_bond_is_detached_with_users_left() {
    let (device, bond, mut script) = bonded(2);
    script.by(10).sva(ProbeId::SvaUnbind, &device, Some(&bond), 9, 2).core_detach(&device, 9, &bond);
    script.by(10).ret(ProbeId::SvaUnbind, 0);
    let effects = script.run();
    assert_eq!(broken(&effects), ["sva-users"]);
    assert!(effects.violations[0].message.contains("1 user(s) remain"), "{}", effects.violations[0].message);
}

#[test]
fn sva_incomplete() {
    let (device, mut script) = (dev(1), Script::new());
    let mut bond = bond(1, &device);
    bond.handle.device = Ptr::NULL;
    script.by(10).sva(ProbeId::SvaBind, &device, None, 9, 0).core_attach(&device, 9, &bond, 0);
    script.by(10).sva_bound(&device, Some(&bond), 9, 1, 0);
    assert_eq!(broken(&script.run()), ["sva-incomplete"]);
}

#[test]
fn iopf_unbalanced() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).queue_remove(&device).queue_removed(&device).queue_add(&device, 0).queue_add(&device, -16);
    assert_eq!(broken(&script.run()), [""; 0]);
    let mut twice = script.clone();
    twice.by(10).queue_add(&device, 0);
    assert_eq!(broken(&twice.run()), ["iopf-unbalanced"]);
    script.by(10).queue_remove(&device).queue_removed(&device).queue_remove(&device).queue_removed(&device);
    assert_eq!(broken(&script.run()), ["iopf-unbalanced"]);
}

#[test]
fn reset_unbalanced() {
    let (device, mut script) = (dev(1), Script::new());
    // What was before the trace is not known.
    script.by(10).device(ProbeId::ResetDone, &device);
    assert_eq!(broken(&script.run()), [""; 0]);
    // An attach shows that no reset is running, of a device that a reset blocks.
    script.by(10).attach(&device, 0, &hnd(1, &device));
    for _ in 0..2 {
        script.by(10).device(ProbeId::ResetPrepare, &device).prepared(0, Some(1));
    }
    for _ in 0..2 {
        script.by(10).device(ProbeId::ResetDone, &device);
    }
    assert_eq!(broken(&script.run()), [""; 0]);
    script.by(10).device(ProbeId::ResetPrepare, &device).ret(ProbeId::ResetPrepare, -12);
    script.by(10).device(ProbeId::ResetDone, &device);
    assert_eq!(broken(&script.run()), ["reset-unbalanced"]);
}

/// A device without ATS is left alone by its reset, and attached meanwhile: the reset may have begun before the trace.
#[test]
fn reset_unbalanced_is_not_told_of_a_reset_that_blocks_nothing() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(20).attach(&device, 0, &hnd(1, &device));
    script.by(10).device(ProbeId::ResetDone, &device);
    assert_eq!(broken(&script.run()), [""; 0]);
}

/// A handle is detached while a fault waits, which iommufd answers.
fn detached_with_a_fault() -> Script {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).bind(&device).attach(&device, 7, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script
        .by(10)
        .iommufd(ProbeId::IommufdDetach, &device, 7)
        .core_detach(&device, 7, &handle)
        .auto_response(&handle)
        .respond(group(1), &device, &req, &handle, 1)
        .free(group(1), &device, &req, &handle)
        .auto_responded()
        .iommufd_ret(ProbeId::IommufdDetach, 0);
    script
}

fn by_rules(script: &Script, rules: RuleSet) -> Effects {
    let (mut model, mut effects) = script.model(kernel_7_3(), ModelOptions { rules, ..ModelOptions::default() });
    model.finish(script.now, &mut effects);
    effects
}

#[test]
fn priv_unfreeable_the_last_reference_is_put_by_a_fault() {
    let script = detached_with_a_fault();
    assert_eq!(broken(&script.run()), [""; 0]);
    let effects = by_rules(&script, RuleSet::refcounted());
    assert_eq!(broken(&effects), ["priv-unfreeable"]);
    assert_eq!(effects.violations[0].severity, Severity::Warning);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| piece.what).collect();
    assert_eq!(proof, ["attach", "detach", "last put"]);
}

#[test]
fn freed_while_referenced_the_caller_frees_first() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).bind(&device).attach(&device, 7, &handle);
    script.by(20).report(&device, &req).lookup(&device, 7, &handle);
    script.by(10).detach(&device, 7, &handle);
    let effects = by_rules(&script, RuleSet::refcounted());
    assert_eq!(broken(&effects), ["freed-while-referenced", "priv-unfreeable"]);
}

#[test]
fn a_fault_that_ends_before_the_detach_leaves_priv_to_its_caller() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).bind(&device).attach(&device, 7, &handle);
    script.by(20).fault(group(1), &device, &req, &handle);
    script.by(30).write(group(1), &device, &req, &handle, 0);
    script.by(10).detach(&device, 7, &handle);
    assert_eq!(broken(&by_rules(&script, RuleSet::refcounted())), [""; 0]);
}

#[test]
fn a_failed_attach_and_a_failed_look_up_take_no_reference() {
    let (device, mut script) = (dev(1), Script::new());
    let (handle, req) = (hnd(1, &device), Req::new(Some(7), 1, 0x1000));
    script.by(10).bind(&device).core_attach(&device, 7, &handle, -22);
    script.by(20).report(&device, &req).lookup_fails(&device, 7, -2).page_response(By::evt(20), &device, &req, 1);
    script.by(20).reported(-22);
    assert_eq!(broken(&by_rules(&script, RuleSet::refcounted())), [""; 0]);
}

#[test]
fn a_silenced_rule_says_nothing() {
    let (device, bond, mut script) = bonded(1);
    script.by(10).sva(ProbeId::SvaBind, &device, None, 9, 0).sva_bound(&device, Some(&bond), 9, 1, 0);
    let effects = by_rules(&script, RuleSet::default().without(RuleId::SvaUsers));
    assert_eq!(broken(&effects), [""; 0]);
    assert_eq!(broken(&by_rules(&script, [RuleId::SvaUsers].into_iter().collect())), ["sva-users"]);
}

#[test]
fn attach_while_blocked() {
    let effects = example(RuleId::AttachWhileBlocked).run();
    assert_eq!(broken(&effects), ["attach-while-blocked"]);
    let proof: Vec<_> = effects.violations[0].evidence.iter().map(|piece| (piece.what, piece.task.tid)).collect();
    assert_eq!(proof, [("reset prepare", 1500), ("entry", 1200), ("return", 1200)]);
}

#[test]
fn an_attach_between_prepare_and_done_fires() {
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).device(ProbeId::ResetPrepare, &device).prepared(0, Some(1));
    script.by(11).attach(&device, 7, &hnd(1, &device));
    script.by(10).device(ProbeId::ResetDone, &device);
    script.by(11).attach(&device, 8, &hnd(2, &device));
    // A device without ATS is left alone by prepare.
    script.by(10).device(ProbeId::ResetPrepare, &device).prepared(0, Some(0));
    script.by(11).attach(&device, 9, &hnd(3, &device));
    script.by(10).device(ProbeId::ResetDone, &device);
    assert_eq!(broken(&script.run()), ["attach-while-blocked"]);
}

#[test]
fn attach_while_blocked_is_not_judged_where_the_kernel_does_not_tell() {
    // A device without ATS is left alone by prepare.
    let (device, mut script) = (dev(1), Script::new());
    script.by(10).device(ProbeId::ResetPrepare, &device).ret(ProbeId::ResetPrepare, 0);
    script.by(11).attach(&device, 7, &hnd(1, &device));
    script.by(10).device(ProbeId::ResetDone, &device);
    let (model, effects) = script.model(kernel_7_3(), ModelOptions::default());
    assert_eq!(broken(&effects), [""; 0]);
    let unjudged = &model.judgements().unjudged;
    assert_eq!(unjudged.get(&(RuleId::AttachWhileBlocked, Doubt::Unseen(ProbeId::ResetPrepare))), Some(&1));
}

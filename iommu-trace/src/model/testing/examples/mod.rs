//! For each rule a sequence of events that breaks it: what the rules' tests run, and what the documentation shows.

mod faults;
mod handles;
mod others;

pub use faults::*;
pub use handles::*;
pub use others::*;

use super::{By, Script, kernel_6_12, kernel_7_3};
use crate::model::{Effects, Features, ModelOptions, RuleId, RuleSet};

/// Time between the events of an example: long enough to be seen in microseconds.
const STEP: u64 = 20_000;
/// When an example begins.
pub const BEGIN: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// A sequence of events that breaks a rule.
#[derive(Clone, Debug)]
pub struct Example {
    /// The events.
    pub script: Script,
    /// The kernel on which they happen.
    pub features: Features,
    /// The rules by which they are judged.
    pub rules: RuleSet,
}

impl Example {
    /// What a fresh model makes of it, to the end.
    #[must_use]
    pub fn run(&self) -> Effects {
        let options = ModelOptions { rules: self.rules, ..ModelOptions::default() };
        let (mut model, mut effects) = self.script.model(self.features.clone(), options);
        model.finish(self.script.now, &mut effects);
        effects
    }
}

/// The example of a rule.
#[must_use]
pub fn example(rule: RuleId) -> Example {
    let on = |features, rules, script| Example { script, features, rules };
    let usual = |script| on(kernel_7_3(), RuleSet::default(), script);
    match rule {
        RuleId::SlotOccupied => usual(slot_occupied()),
        RuleId::EmptySlot => usual(empty_slot()),
        RuleId::HandleReused => usual(handle_reused()),
        RuleId::StaleLookup => usual(stale_lookup()),
        RuleId::VisibleBeforeAttach => on(kernel_6_12(), RuleSet::default(), visible_before_attach()),
        RuleId::UseAfterDetach => usual(use_after_detach()),
        RuleId::UseAfterFree => usual(use_after_free()),
        RuleId::FreedWhileAttached => usual(freed_while_attached()),
        RuleId::DomainFreedAttached => usual(domain_freed_attached()),
        RuleId::DeviceIdDangling => usual(device_id_dangling()),
        RuleId::DeviceMismatch => usual(device_mismatch()),
        RuleId::FaultUnanswered => usual(fault_unanswered()),
        RuleId::FaultDropped => usual(fault_dropped()),
        RuleId::DoubleResponse => usual(double_response()),
        RuleId::GroupLeak => usual(group_leak()),
        RuleId::GroupUseAfterFree => usual(group_use_after_free()),
        RuleId::PartialLeak => usual(partial_leak()),
        RuleId::WrongDomain => usual(wrong_domain()),
        RuleId::WrongDevice => usual(wrong_device()),
        RuleId::SvaUsers => usual(sva_users()),
        RuleId::SvaIncomplete => usual(sva_incomplete()),
        RuleId::IopfUnbalanced => usual(iopf_unbalanced()),
        RuleId::ResetUnbalanced => usual(reset_unbalanced()),
        RuleId::AttachWhileBlocked => usual(attach_while_blocked()),
        RuleId::PrivUnfreeable => on(kernel_7_3(), RuleSet::refcounted(), priv_unfreeable()),
        RuleId::FreedWhileReferenced => on(kernel_7_3(), RuleSet::refcounted(), freed_while_referenced()),
    }
}

/// An empty script on a clock that people can read.
fn script() -> Script {
    Script { events: Vec::new(), now: BEGIN, step: STEP }
}

/// A virtual machine monitor's thread that attaches and detaches.
fn vmm(script: &mut Script) -> By<'_> {
    script.task(1200, 1200, "vmm")
}

/// Its thread that serves page faults.
fn server(script: &mut Script) -> By<'_> {
    script.task(1200, 1207, "vmm-faults")
}

/// The thread of the IOMMU's page request interrupt.
fn interrupt(script: &mut Script) -> By<'_> {
    script.task(85, 85, "irq/29-dmar0")
}

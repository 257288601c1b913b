//! The rules that attach handles live and die by: one file each, one table.
//!
//! A rule looks at the mirror at the moment of an event and returns a [`Breach`](super::judge::Breach) or nothing; the
//! lists below say which rules look at which moment. What is uncertain, silenced or told already is the judge's affair.

mod attach_while_blocked;
mod device_id_dangling;
mod device_mismatch;
mod domain_freed_attached;
mod double_response;
mod empty_slot;
mod facts;
mod fault_dropped;
mod fault_unanswered;
mod freed_while_attached;
mod group_leak;
mod group_use_after_free;
mod handle_reused;
mod iopf_unbalanced;
mod partial_leak;
mod probes;
mod refcounted;
mod reset_unbalanced;
mod slot_occupied;
mod stale_lookup;
mod sva_incomplete;
mod sva_users;
mod table;
mod use_after_detach;
mod visible_before_attach;
mod wrong_device;
mod wrong_domain;

use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{Model, judge::Breach};

pub use table::{RULES, Rule};

pub(super) use facts::{Called, Changed, LookedUp, Touch, Touched};
pub(super) use fault_unanswered::Because;
pub(super) use refcounted::References;
pub(super) use {
    device_id_dangling::{device_left, unbound},
    device_mismatch::delivered as delivered_elsewhere,
    domain_freed_attached::domain_freed,
    double_response::{answered_again, answered_for_another, never_made},
    fault_dropped::reported,
    fault_unanswered::unanswered,
    freed_while_attached::freed,
    group_leak::{destroyed_around, not_freed},
    group_use_after_free::delivered_again,
    group_use_after_free::freed_around,
    group_use_after_free::seen_again,
    iopf_unbalanced::{joined, left},
    partial_leak::{abandoned, left_behind},
    reset_unbalanced::{left_in_reset, reset_done},
    sva_incomplete::bound as bound_incomplete,
    sva_users::{bound, detached_with_users, unbinding, unbound_and_attached},
    wrong_device::delivered as delivered_for_another,
};

/// Rules that look at the return of a change, before it is applied.
pub(super) const ON_CHANGED: &[fn(&Model, &Changed<'_>) -> Option<Breach>] = &[
    slot_occupied::changed,
    empty_slot::changed,
    handle_reused::changed,
    visible_before_attach::changed,
    attach_while_blocked::changed,
];

/// Rules that look at a look-up.
pub(super) const ON_LOOKED_UP: &[fn(&Model, &LookedUp<'_>) -> Option<Breach>] =
    &[stale_lookup::looked_up, visible_before_attach::looked_up, device_mismatch::looked_up, wrong_domain::looked_up];

/// Rules that look at a fault being handled, delivered or answered.
pub(super) const ON_TOUCHED: &[fn(&Model, &Touched<'_>) -> Option<Breach>] =
    &[use_after_detach::touched, wrong_domain::touched, wrong_domain::cleaned_up];

/// Rules that look at the return of a call of iommufd.
pub(super) const ON_CALLED: &[fn(&Model, &Called<'_>) -> Option<Breach>] = &[empty_slot::called];

macro_rules! rule_ids {
    ($($(#[$doc:meta])* $variant:ident = $slug:literal,)+) => {
        /// A rule. Its slug is its public name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum RuleId {
            $($(#[$doc])* $variant,)+
        }

        impl RuleId {
            /// Every rule, in the order of the documentation.
            pub const ALL: &'static [RuleId] = &[$(RuleId::$variant,)+];

            /// The public name.
            #[must_use]
            pub const fn slug(self) -> &'static str {
                match self { $(RuleId::$variant => $slug,)+ }
            }
        }
    };
}

rule_ids! {
    /// An attach succeeds on an occupied slot.
    SlotOccupied = "slot-occupied",
    /// A detach, or a replace where this kernel forbids it, hits an empty slot.
    EmptySlot = "empty-slot",
    /// One handle sits in two slots, or is attached again while its last life goes on.
    HandleReused = "handle-reused",
    /// A look-up returns another handle than the live one of that slot.
    StaleLookup = "stale-lookup",
    /// A look-up returns a handle whose attach is still running.
    VisibleBeforeAttach = "visible-before-attach",
    /// A fault is handled, delivered or answered with a handle whose detach or replace has completed.
    UseAfterDetach = "use-after-detach",
    /// The same, with the handle's memory freed.
    UseAfterFree = "use-after-free",
    /// A handle's memory is freed while it is in a slot or a fault group refers to it.
    FreedWhileAttached = "freed-while-attached",
    /// A domain is freed while a slot uses it.
    DomainFreedAttached = "domain-freed-attached",
    /// A live handle's iommufd device was unbound or destroyed.
    DeviceIdDangling = "device-id-dangling",
    /// A fault's device is not of the slot's group, or the handle's device is not.
    DeviceMismatch = "device-mismatch",
    /// A page request has no response.
    FaultUnanswered = "fault-unanswered",
    /// A report returns an error for a page request, and nobody answered it.
    FaultDropped = "fault-dropped",
    /// A request is answered twice, or one never made is answered.
    DoubleResponse = "double-response",
    /// A fault group is answered and never freed, or its queue is destroyed around it.
    GroupLeak = "group-leak",
    /// A fault group is answered, delivered or freed after it was freed.
    GroupUseAfterFree = "group-use-after-free",
    /// A partial fault is neither completed nor discarded when its device leaves.
    PartialLeak = "partial-leak",
    /// A fault is handled by another domain than the one in its slot.
    WrongDomain = "wrong-domain",
    /// User space is told of a fault with the id of another device than the one that raised it.
    WrongDevice = "wrong-device",
    /// The count of binds and unbinds disagrees with `users`, or the bond is gone while users remain.
    SvaUsers = "sva-users",
    /// Bind returns a handle whose device or domain is not set.
    SvaIncomplete = "sva-incomplete",
    /// A device joins or leaves the fault queue out of turn.
    IopfUnbalanced = "iopf-unbalanced",
    /// PCI reset prepare and done are out of balance.
    ResetUnbalanced = "reset-unbalanced",
    /// An attach succeeds between reset prepare and done.
    AttachWhileBlocked = "attach-while-blocked",
    /// By the first proposal: the reference count reaches zero with nobody to free `priv`.
    PrivUnfreeable = "priv-unfreeable",
    /// By the first proposal: the caller frees a handle that a look-up still refers to.
    FreedWhileReferenced = "freed-while-referenced",
}

impl RuleId {
    /// Its entry in the table.
    #[must_use]
    pub fn rule(self) -> &'static Rule {
        // A test keeps the table in this order.
        &RULES[self as usize]
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.slug())
    }
}

/// A slug that no rule has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no rule `{0}`; the rules are {known}", known = RuleId::ALL.iter().map(|rule| rule.slug()).collect::<Vec<_>>().join(", "))]
pub struct UnknownRule(pub String);

impl FromStr for RuleId {
    type Err = UnknownRule;

    fn from_str(slug: &str) -> Result<Self, UnknownRule> {
        RuleId::ALL.iter().copied().find(|rule| rule.slug() == slug).ok_or_else(|| UnknownRule(slug.to_owned()))
    }
}

/// A set of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleSet(u32);

impl RuleSet {
    /// No rule.
    pub const NONE: RuleSet = RuleSet(0);

    /// Every rule of the merged design, in which the caller owns the handle.
    #[must_use]
    pub fn caller_owned() -> Self {
        RuleId::ALL.iter().filter(|rule| !REFCOUNTED.contains(rule)).copied().collect()
    }

    /// Every rule, those of the first proposal (a reference count in the handle) too.
    #[must_use]
    pub fn refcounted() -> Self {
        RuleId::ALL.iter().copied().collect()
    }

    /// Whether a rule is in it.
    #[must_use]
    pub const fn contains(self, rule: RuleId) -> bool {
        self.0 & (1 << rule as u8) != 0
    }

    /// With one rule more.
    #[must_use]
    pub const fn with(self, rule: RuleId) -> Self {
        RuleSet(self.0 | 1 << rule as u8)
    }

    /// With one rule less.
    #[must_use]
    pub const fn without(self, rule: RuleId) -> Self {
        RuleSet(self.0 & !(1 << rule as u8))
    }

    /// Every rule in it.
    pub fn iter(self) -> impl Iterator<Item = RuleId> {
        RuleId::ALL.iter().copied().filter(move |&rule| self.contains(rule))
    }
}

/// The rules of the first proposal.
const REFCOUNTED: [RuleId; 2] = [RuleId::PrivUnfreeable, RuleId::FreedWhileReferenced];

impl FromIterator<RuleId> for RuleSet {
    fn from_iter<I: IntoIterator<Item = RuleId>>(rules: I) -> Self {
        rules.into_iter().fold(RuleSet::NONE, RuleSet::with)
    }
}

impl Default for RuleSet {
    fn default() -> Self {
        RuleSet::caller_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_rule_at_its_place() {
        let ids: Vec<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(ids, RuleId::ALL);
    }

    #[test]
    fn every_slug_reads_back() {
        for &rule in RuleId::ALL {
            assert_eq!(rule.slug().parse(), Ok(rule));
        }
        let error = "no-such".parse::<RuleId>().expect_err("there is no such rule").to_string();
        assert!(error.contains("no-such") && error.contains("slot-occupied"), "{error}");
    }

    #[test]
    fn the_first_proposals_rules_are_asked_for() {
        assert!(!RuleSet::default().contains(RuleId::PrivUnfreeable));
        assert_eq!(RuleSet::refcounted().iter().count(), RuleId::ALL.len());
        let fewer = RuleSet::default().without(RuleId::EmptySlot);
        assert!(!fewer.contains(RuleId::EmptySlot) && fewer.with(RuleId::EmptySlot) == RuleSet::default());
    }
}

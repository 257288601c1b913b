//! The rules that attach handles live and die by.

use serde::{Serialize, Serializer};

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

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.slug())
    }
}

//! Ways in which the simulated kernel can be wrong, and the rules that must see it.

use crate::model::RuleId;

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident: $($rule:ident),+;)+) => {
        /// A bug of the simulated kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $bug,)+
        }

        impl Bug {
            pub const ALL: &'static [Bug] = &[$(Bug::$bug,)+];

            /// The rules of which one must fire.
            pub fn rules(self) -> &'static [RuleId] {
                match self { $(Bug::$bug => &[$(RuleId::$rule),+],)+ }
            }
        }
    };
}

bugs! {
    /// An attach does not look whether the slot is free.
    AttachOccupied: SlotOccupied;
    /// A slot is detached where nothing is.
    DetachEmpty: EmptySlot;
    /// A PASID is replaced where nothing is.
    ReplaceEmpty: EmptySlot;
    /// iommufd replaces for a device that is not attached, next to one that is.
    ReplaceForOther: EmptySlot;
    /// The caller attaches the handle that it has in another slot.
    ReuseHandle: HandleReused;
    /// A look-up finds the slot's last handle.
    StaleLookup: StaleLookup, UseAfterDetach, UseAfterFree;
    /// A look-up does not find the handle that is there.
    MissingLookup: StaleLookup;
    /// The handle of an attach that fails is in the slot meanwhile.
    EarlyStore: VisibleBeforeAttach;
    /// A detach leaves its faults to user space.
    NoAutoResponse: UseAfterDetach, UseAfterFree, FreedWhileAttached;
    /// A detach does not wait for reports that run.
    NoDrain: UseAfterDetach, UseAfterFree, FreedWhileAttached;
    /// The caller frees the handle before its faults are answered.
    EarlyFree: FreedWhileAttached;
    /// The caller frees a handle that is attached.
    FreeAttached: FreedWhileAttached;
    /// A domain is freed before it is detached.
    EarlyDomainFree: DomainFreedAttached;
    /// A device is unbound while it is attached.
    UnbindAttached: DeviceIdDangling;
    /// User space is told another device's id.
    WrongId: DeviceMismatch;
    /// A fault is looked up in another group.
    WrongGroup: DeviceMismatch;
    /// User space's answer does not reach the device, and the group is freed.
    DropAnswer: FaultUnanswered;
    /// A fault is lost between the handler and user space.
    LoseFault: FaultUnanswered;
    /// A report that fails does not answer.
    NoErrorResponse: FaultDropped;
    /// A report that fails answers with success.
    WrongErrorCode: FaultDropped;
    /// A group is answered twice.
    AnswerTwice: DoubleResponse;
    /// A device is answered that did not ask.
    AnswerNothing: DoubleResponse;
    /// The answer to a group names another request.
    AnswerOther: DoubleResponse;
    /// The clean-up of a handle answers another's fault.
    AnswerOthers: WrongDomain;
    /// An answered group is not freed.
    LeakGroup: GroupLeak;
    /// A fault queue is destroyed with groups in it.
    DestroyAround: GroupLeak, FaultUnanswered;
    /// A group is freed twice.
    FreeGroupTwice: GroupUseAfterFree;
    /// A group is answered after its free.
    AnswerFreed: GroupUseAfterFree;
    /// A group is delivered again after its free.
    DeliverFreed: GroupUseAfterFree;
    /// A group forgets a partial request.
    LosePartial: PartialLeak;
    /// The handler of another domain is called.
    WrongDomain: WrongDomain;
    /// A bind takes no reference.
    NoReference: SvaUsers;
    /// An unbind detaches though users remain.
    EarlyDetach: SvaUsers;
    /// The last unbind does not detach.
    LateDetach: SvaUsers;
    /// A bond is given out before its device is set.
    Incomplete: SvaIncomplete;
    /// A device joins the fault queue again.
    JoinTwice: IopfUnbalanced;
    /// A device leaves the fault queue again.
    LeaveTwice: IopfUnbalanced;
    /// A reset is done twice.
    DoneTwice: ResetUnbalanced;
    /// A PASID is attached in the middle of a reset.
    AttachBlocked: AttachWhileBlocked;
}

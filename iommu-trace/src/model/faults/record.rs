//! One fault, as it is put together.

use super::{Age, Message, Waiting};
use crate::{
    event::{Event, Ptr, Report, ResponseCode, Task},
    model::{
        Evidence,
        latency::LatencySlots,
        since,
        span::{Answerer, FaultSpan, Response, Stage, StageSpan},
        table::Link,
    },
};

/// Links of the lists by age.
pub(super) const AGE: usize = 0;
/// Links of the chains by what is waited for.
pub(super) const CHAIN: usize = 1;
/// Links of the members of a group.
pub(super) const GROUP: usize = 2;

/// A response seen at `iopf_group_response`.
#[derive(Clone, Copy, Debug)]
pub struct Witness {
    /// The event.
    pub seen: Evidence,
    /// The code.
    pub code: ResponseCode,
    /// By whom, if that is known.
    pub by: Option<Answerer>,
}

/// One I/O page fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When the report was entered.
    pub ts: u64,
    /// By whom.
    pub task: Task,
    /// The report's stack.
    pub stack: Option<u32>,
    /// What was reported.
    pub report: Report,
    /// When the interrupt's thread that reported it began its work.
    pub interrupt: Option<u64>,
    /// The group's number.
    pub group_id: Option<u32>,
    /// Whether the report has not returned.
    pub reporting: bool,
    /// What it returned.
    pub ret: Option<i64>,
    /// When.
    pub returned: Option<u64>,
    /// Partial requests were dropped while it was being reported: whether it was among them is not known.
    pub swept: bool,
    /// A group may have taken it: of several partial requests that were being reported, which it took is not known.
    pub doubtful: bool,
    /// The `struct iopf_group` it is part of.
    pub group: Option<Ptr>,
    /// Requests in that group.
    pub requests: Option<u32>,
    /// The handle that the last look-up found.
    pub handle: Option<Ptr>,
    /// The number of that handle's life.
    pub handle_number: Option<u32>,
    /// iommufd's object id of the device.
    pub device_id: Option<u32>,
    /// The id that user space must be told: that of the group's handle, also for partial requests of another.
    pub told_id: Option<u32>,
    /// Look-ups made.
    pub lookups: u32,
    /// The id that user space was told, and the cookie.
    pub delivered: Option<(u32, u32)>,
    /// The cookie that its group came back with: what user space was told, or will be found to have been told.
    pub cookie: Option<u32>,
    /// The response and who gave it, if that is known.
    pub response: Option<(ResponseCode, Option<Answerer>)>,
    /// The response as the core saw it, where the driver's is not probed.
    pub witness: Option<Witness>,
    /// The events by which each stage was reached.
    pub stages: [Option<Evidence>; Stage::ALL.len()],
    /// When the device id was known.
    pub id_ts: Option<u64>,
    pub(in crate::model) latencies: LatencySlots,
    pub(super) age: Age,
    /// When its age became what it is.
    pub(super) age_since: u64,
    pub(super) waiting: Option<Waiting>,
    pub(super) links: [Link; 3],
}

impl Fault {
    pub(super) fn new(
        event: &Event,
        report: &Report,
        group_id: Option<u32>,
        latencies: LatencySlots,
        interrupt: Option<u64>,
    ) -> Self {
        Fault {
            ts: event.ts,
            task: event.task,
            stack: event.stack,
            report: *report,
            interrupt,
            group_id,
            reporting: true,
            ret: None,
            returned: None,
            swept: false,
            doubtful: false,
            group: None,
            requests: None,
            handle: None,
            handle_number: None,
            device_id: None,
            told_id: None,
            lookups: 0,
            delivered: None,
            cookie: None,
            response: None,
            witness: None,
            stages: [None; Stage::ALL.len()],
            id_ts: None,
            latencies,
            age: Age::Waiting,
            age_since: event.ts,
            waiting: None,
            links: [Link::default(); 3],
        }
    }

    /// When a stage was reached.
    pub fn stage(&self, stage: Stage) -> Option<u64> {
        self.stages[stage as usize].map(|seen| seen.ts)
    }

    /// From the report to a stage.
    fn to_stage(&self, stage: Stage) -> Option<u64> {
        self.stage(stage).map(|ts| since(ts, self.ts))
    }

    /// Whether its report had returned before `ts`.
    pub fn returned_before(&self, ts: u64) -> bool {
        self.returned.is_some_and(|returned| returned < ts)
    }

    /// Whether it is this request: PASID and group index as the kernel gives them back.
    pub(super) fn is(&self, pasid: u32, grpid: u32) -> bool {
        self.report.pasid == pasid && self.report.grpid == grpid
    }

    /// What user space was told of it, and the cookie. Only a last request's cookie comes back with its group.
    pub(super) fn told(&self) -> Option<(Message, u32)> {
        let (_, cookie) = self.delivered.filter(|_| self.report.is_last())?;
        Some((self.message(), cookie))
    }

    /// What a message to user space of it says.
    pub(super) fn message(&self) -> Message {
        (self.report.pasid, self.report.grpid, self.report.addr, self.report.flags)
    }

    /// Whether a response was seen, at the driver or at the core.
    pub fn is_answered(&self) -> bool {
        self.response.is_some() || self.witness.is_some()
    }

    /// Whether the core itself answered, on the reporter's thread.
    pub(super) fn answered_inside(&self) -> bool {
        self.response.is_some_and(|(_, by)| by == Some(Answerer::Report))
            || self.witness.is_some_and(|witness| witness.by == Some(Answerer::Report))
    }

    /// Whether it waits for its answer, and not for too long.
    pub fn age_is_waiting(&self) -> bool {
        self.age == Age::Waiting
    }

    /// When it was answered, or came to be overdue or over.
    pub fn age_since(&self) -> u64 {
        self.age_since
    }

    /// What is known of it.
    pub(in crate::model) fn span(&self, complete: bool) -> FaultSpan {
        FaultSpan {
            group: self.group_id,
            device: self.report.device.name,
            pasid: self.report.pasid(),
            grpid: self.report.grpid,
            addr: self.report.addr,
            perm: self.report.perm,
            flags: self.report.flags,
            last: self.report.is_last(),
            requests: self.requests,
            handle: self.handle,
            device_id: self.device_id,
            delivered_id: self.delivered.map(|(id, _)| id),
            cookie: self.delivered.map(|(_, cookie)| cookie),
            ret: self.ret,
            lookups: self.lookups,
            interrupt_ns: self.interrupt.map(|began| since(self.ts, began)),
            lookup_ns: self.handle.and(self.to_stage(Stage::Lookup)),
            device_id_ns: self.id_ts.map(|ts| since(ts, self.ts)),
            handler_ns: self.to_stage(Stage::Handler),
            delivered_ns: self.to_stage(Stage::Delivered),
            response_ns: self.to_stage(Stage::Response),
            response: Response(self.response.map(|(code, _)| code)),
            answered_by: self.response.and_then(|(_, by)| by),
            freed_ns: self.to_stage(Stage::Free),
            complete,
        }
    }

    pub(super) fn stage_span(&self, stage: Stage, ts: u64) -> StageSpan {
        StageSpan {
            stage,
            group: self.group_id,
            device: self.report.device.name,
            pasid: self.report.pasid(),
            grpid: self.report.grpid,
            addr: self.report.addr,
            since_report_ns: since(ts, self.ts),
            handle: self.handle,
            device_id: self.device_id,
            response: if stage == Stage::Response { self.response.map(|(code, _)| code) } else { None },
        }
    }
}

//! Page faults: each is one event, from the thread and time of its report to the code and time of its answer.

use std::collections::HashMap;

use serde_json::Value;

use super::{Comparison, Trust};
use crate::guest_tests::{
    trace::Span,
    truth::{By, Fact, Fault, Line},
};

/// The stages of a fault, in the order in which they happen.
const STAGES: [&str; 6] = ["lookup_ns", "device_id_ns", "handler_ns", "delivered_ns", "response_ns", "freed_ns"];

/// What tells a fault from every other of its program: reporting thread, PASID, group id, address.
type Key = (u32, u64, u64, String);

impl Comparison<'_> {
    pub(super) fn faults(&mut self) {
        let mut by_key: HashMap<Key, Vec<usize>> = HashMap::new();
        for (index, span) in self.spans.iter().enumerate() {
            if span.event == "fault" {
                let number = |field| span.number(field).unwrap_or_default();
                let addr = span.text("addr").unwrap_or_default().to_owned();
                by_key.entry((span.tid, number("pasid"), number("grpid"), addr)).or_default().push(index);
            }
        }
        for line in &self.truth.lines {
            let Fact::Fault(fault) = &line.fact else { continue };
            let key = (fault.raise_tid, u64::from(fault.pasid), u64::from(fault.grpid), fault.addr.clone());
            let candidates = by_key.get(&key).map_or(&[][..], Vec::as_slice);
            let Some(span) = self.claim(line, "such fault", candidates) else { continue };
            // What was lost of it cannot be compared; that it is there at all must be right.
            let known = |field: &str| !span.get(field).is_null();
            let whole = STAGES.iter().all(|stage| known(stage)) && known("ret") && span.get("complete") == true;
            if self.trust == Trust::Whole || whole {
                self.fault(line, fault, span);
            }
        }
    }

    fn fault(&mut self, line: &Line, fault: &Fault, span: &Span) {
        self.ensure(
            fault.raise_ts0 <= span.ts && span.ts <= fault.raise_ts1,
            "ts: not within the call that raised it",
            line,
            span,
        );
        self.expect_known(line, span, "device", fault.device.as_deref());
        self.expect_known(line, span, "group", fault.group);
        self.expect(line, span, "pasid", Some(fault.pasid).filter(|&pasid| pasid != 0));
        self.expect(line, span, "perm", fault.perm);
        self.expect_known(line, span, "flags", fault.flags);
        self.expect(line, span, "last", true);
        self.expect(line, span, "lookups", fault.lookups);
        self.expect(line, span, "complete", true);
        self.expect(line, span, "response", fault.response.as_str());
        self.expect(line, span, "delivered_id", fault.read_device_id);
        self.expect(line, span, "cookie", fault.cookie);
        self.handler(line, fault, span);
        self.answerer(line, fault, span);
        self.stages(line, fault, span);
        if self.trust == Trust::Whole {
            self.handle(line, fault, span);
        }
    }

    /// What the core did with it.
    fn handler(&mut self, line: &Line, fault: &Fault, span: &Span) {
        if fault.hwpt_id.is_some() {
            self.expect(line, span, "device_id", fault.device_id);
            self.expect(line, span, "ret", 0);
            self.expect(line, span, "requests", 1);
            return;
        }
        // A handle that nobody listens behind still tells the device.
        if !span.get("device_id").is_null() {
            self.expect(line, span, "device_id", fault.device_id);
        }
        let failed = span.get("ret").as_i64().is_some_and(|ret| ret < 0);
        self.ensure(failed, "ret: expected an error for a fault without a handler", line, span);
        self.expect(line, span, "requests", Value::Null);
    }

    fn answerer(&mut self, line: &Line, fault: &Fault, span: &Span) {
        // The call that answered may be what was lost.
        if self.trust == Trust::Lossy && span.get("answered_by").is_null() {
            return;
        }
        match fault.by {
            By::User => self.expect(line, span, "answered_by", "user"),
            By::Core => self.expect(line, span, "answered_by", "report"),
            By::Iommufd => self.expect(line, span, "answered_by", "automatic"),
        }
    }

    /// Each stage is within the call that brought it about, and after those before.
    fn stages(&mut self, line: &Line, fault: &Fault, span: &Span) {
        let mut last = 0;
        for stage in STAGES {
            let Some(at) = span.number(stage) else {
                let reached = match stage {
                    "delivered_ns" => fault.delivered,
                    "device_id_ns" | "handler_ns" | "freed_ns" => fault.hwpt_id.is_some(),
                    "lookup_ns" => !span.get("handle").is_null(),
                    _ => true,
                };
                self.ensure(!reached, &format!("{stage}: expected a time, got null"), line, span);
                continue;
            };
            self.ensure(at >= last, &format!("{stage}: before the stage that precedes it"), line, span);
            last = at;
            let (from, to) = match stage {
                "lookup_ns" | "device_id_ns" | "handler_ns" => (fault.raise_ts0, fault.raise_ts1),
                "delivered_ns" => (fault.read_ts0.unwrap_or(u64::MAX), fault.read_ts1.unwrap_or_default()),
                "response_ns" => (fault.answer_ts0, fault.answer_ts1),
                // The group is freed by the call that answers; without a handler at once.
                _ => (fault.answer_ts0.min(fault.raise_ts0), fault.answer_ts1),
            };
            let at = span.ts + at;
            self.ensure(
                from <= at && at <= to,
                &format!("{stage}: {at} is not within the call that did it, {from} to {to}"),
                line,
                span,
            );
        }
    }

    /// The handle is the one that the trace itself has put into the slot.
    fn handle(&mut self, line: &Line, fault: &Fault, span: &Span) {
        let handle = span.get("handle");
        if handle.is_null() {
            self.ensure(fault.hwpt_id.is_none(), "handle: expected one, got null", line, span);
            return;
        }
        let pasid = if fault.lookups == 2 { 0 } else { fault.pasid };
        let group = span.number("group");
        let in_slot = self.tenancies.iter().rev().any(|tenancy| {
            Some(tenancy.group) == group
                && tenancy.pasid == pasid
                && tenancy.handle == *handle
                && tenancy.from <= span.ts
                && tenancy.to.is_none_or(|to| span.ts <= to)
        });
        self.ensure(in_slot, "handle: not the one in the slot at that time", line, span);
    }
}

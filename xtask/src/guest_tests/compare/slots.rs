//! Attach, replace and detach: each call that reached the core is one event, and handles follow each other in their slot.

use std::collections::HashMap;

use serde_json::Value;

use super::{Comparison, Tenancy, Trust};
use crate::guest_tests::{
    trace::Span,
    truth::{Fact, Line, Slot, Via},
};

impl Comparison<'_> {
    pub(super) fn slots(&mut self) {
        // In the order of the calls: several threads write their lines when they get to it.
        let mut lines: Vec<(&'static str, &Line, &Slot)> = Vec::new();
        for line in &self.truth.lines {
            let (event, slot) = match &line.fact {
                Fact::Attach(slot) => ("attach", slot),
                Fact::Replace(slot) => ("replace", slot),
                Fact::Detach(slot) => ("detach", slot),
                _ => continue,
            };
            if slot.core {
                lines.push((event, line, slot));
            }
        }
        lines.sort_by_key(|(_, _, slot)| slot.call.ts0);
        let mut last = HashMap::new();
        let mut pairs: Vec<(&Line, &Slot, &Span)> = Vec::new();
        for (event, line, slot) in lines {
            let candidates: Vec<usize> = self
                .within(line.tid, slot.call, &[event])
                .into_iter()
                .filter(|&index| {
                    let span = self.spans[index];
                    span.text("owner") != Some("kernel") && span.number("pasid") == Some(u64::from(slot.pasid))
                })
                // A close undoes several slots in one call.
                .filter(|&index| slot.device.is_none() || names(self.spans[index], slot))
                .collect();
            let Some(span) = self.claim(line, &format!("{event} within this call"), &candidates) else { continue };
            // In the file they come in the order of the calls.
            let at = candidates[0];
            if let Some(before) = last.insert(line.tid, at)
                && before > at
            {
                self.differences.add("the trace has this before the call that preceded it", Some(line), Some(span));
            }
            pairs.push((line, slot, span));
        }
        // Calls of several threads overlap, and a group that one of them frees is given to the next at once: what comes
        // first in a slot is told by the core's functions only.
        pairs.sort_by_key(|(_, _, span)| span.ts);
        for (line, slot, span) in pairs {
            self.slot(line, slot, span);
            if slot.call.ret == 0 {
                self.changes.push((line, slot));
            }
        }
    }

    /// What a healthy kernel does that its own rules forbid: in a group of several devices the handle is that of the
    /// first to be attached, and stays when this one is detached and unbound before its siblings. Each such unbind is one
    /// violation; any other is a false alarm.
    pub(super) fn violations(&mut self) {
        for line in &self.truth.lines {
            let Fact::Unbind(bind) = &line.fact else { continue };
            let call = bind.call;
            let handle = self.tenancies.iter().find(|tenancy| {
                tenancy.device_id == Some(u64::from(bind.device_id))
                    && Some(tenancy.group) == bind.group.map(u64::from)
                    && tenancy.from < call.ts0
                    && tenancy.to.is_some_and(|to| to > call.ts1)
            });
            let Some(handle) = handle.map(|tenancy| tenancy.handle.clone()) else { continue };
            let candidates = self.within(line.tid, call, &["violation"]);
            if let Some(span) = self.claim(line, "violation within this call", &candidates) {
                self.expect(line, span, "rule", "device-id-dangling");
                let subject = span.get("subject");
                let right = subject["handle"] == handle && subject["device_id"] == bind.device_id;
                self.ensure(right, "subject: expected this device and the handle in its group's slot", line, span);
            }
        }
    }

    fn slot(&mut self, line: &Line, slot: &Slot, span: &Span) {
        self.expect(line, span, "ret", slot.call.ret);
        self.expect_known(line, span, "group", slot.group);
        if slot.via == Via::VfioContainer {
            for field in ["device", "device_id", "handle", "old_handle"] {
                self.expect(line, span, field, Value::Null);
            }
            self.expect(line, span, "owner", "vfio");
        } else {
            self.expect_known(line, span, "device", slot.device.as_deref());
            self.expect_known(line, span, "device_id", slot.device_id);
            self.expect(line, span, "owner", "iommufd");
            self.ensure(!span.get("handle").is_null(), "handle: expected one, got null", line, span);
        }
        if slot.call.ret == 0 {
            self.succession(line, slot, span);
        }
    }

    /// The handle and domain that leave a slot are those that came into it.
    fn succession(&mut self, line: &Line, slot: &Slot, span: &Span) {
        let Some(group) = span.number("group") else { return };
        let before =
            self.tenancies.iter_mut().rev().find(|t| t.group == group && t.pasid == slot.pasid && t.to.is_none());
        let before = before.map(|tenancy| {
            tenancy.to = Some(span.end());
            tenancy.clone()
        });
        let detach = matches!(line.fact, Fact::Detach(_));
        let attach = matches!(line.fact, Fact::Attach(_));
        if self.trust == Trust::Whole {
            match (&before, attach) {
                (Some(before), false) => {
                    let (handle, domain) = if detach { ("handle", "domain") } else { ("old_handle", "old_domain") };
                    self.expect(line, span, handle, before.handle.clone());
                    self.expect(line, span, domain, before.domain.clone());
                }
                (Some(_), true) => self.ensure(false, "an attach to a slot that is taken", line, span),
                (None, false) => self.ensure(false, "the slot was empty", line, span),
                (None, true) => self.expect(line, span, "old_handle", Value::Null),
            }
        }
        if !detach {
            self.tenancies.push(Tenancy {
                group,
                pasid: slot.pasid,
                device_id: span.number("device_id"),
                handle: span.get("handle").clone(),
                domain: span.get("domain").clone(),
                from: span.ts,
                to: None,
            });
        }
    }
}

/// Whether an event is about the slot's device; the container's are about its group.
fn names(span: &Span, slot: &Slot) -> bool {
    match slot.via {
        Via::VfioContainer => span.number("group") == slot.group.map(u64::from),
        Via::Mock | Via::Vfio => span.text("device") == slot.device.as_deref() || span.text("device").is_none(),
    }
}

//! Everything else that a call brings about, one for one: binds, devices, fault queues, page tables, default domains.

use std::collections::{BTreeMap, BTreeSet};

use super::{Comparison, Trust};
use crate::guest_tests::truth::{Bind, Call, Fact, Line, Via};

impl Comparison<'_> {
    pub(super) fn calls(&mut self) {
        let mut queues: BTreeSet<u32> = BTreeSet::new();
        for line in &self.truth.lines {
            match &line.fact {
                Fact::Bind(bind) => self.bind(line, bind, "iommufd_bind", "device_add"),
                Fact::Unbind(bind) => self.bind(line, bind, "iommufd_unbind", "device_remove"),
                // Made, bound, unbound and removed within the call.
                Fact::Attach(slot) if slot.via == Via::Mock && slot.call.ret != 0 && slot.device_id.is_none() => {
                    for event in ["device_add", "iommufd_bind", "iommufd_unbind", "device_remove"] {
                        self.one(line, slot.call, event);
                    }
                }
                // Before Linux 6.15 a device comes behind a virtio-iommu that is a module only when a driver first takes it.
                Fact::DeviceAdd(device) | Fact::DeviceRemove(device) if device.group.is_none() => {}
                Fact::DeviceAdd(device) | Fact::DeviceRemove(device) => {
                    let event = if matches!(line.fact, Fact::DeviceAdd(_)) { "device_add" } else { "device_remove" };
                    let candidates = self.within(line.tid, device.call, &[event]);
                    if let Some(span) = self.claim(line, event, &candidates) {
                        self.expect(line, span, "device", device.name.as_str());
                        self.expect_known(line, span, "group", device.group);
                    }
                }
                Fact::DefaultDomain(domain) => self.default_domain(line, domain.core),
                Fact::Alloc(object) if object.kind == "fault_queue" && object.call.ret == 0 => {
                    queues.extend(object.id);
                }
                Fact::Destroy(object) if object.call.ret == 0 && object.kind == "fault_queue" => {
                    if let Some(id) = object.id {
                        queues.remove(&id);
                        self.fault_queue(line, object.call, id);
                    }
                }
                Fact::Destroy(object) if object.call.ret == 0 && object.kind.starts_with("hwpt_") => {
                    let candidates = self.within(line.tid, object.call, &["domain_free"]);
                    if let Some(span) = self.claim(line, "domain_free", &candidates) {
                        let kind = if object.kind == "hwpt_nested" { "nested" } else { "unmanaged" };
                        self.expect(line, span, "domain_type", kind);
                    }
                }
                Fact::Close(close) if close.what == "iommufd" => {
                    for id in std::mem::take(&mut queues) {
                        self.fault_queue(line, close.call, id);
                    }
                }
                _ => {}
            }
        }
        self.fault_capable_devices();
    }

    /// Exactly one event within a call.
    fn one(&mut self, line: &Line, call: Call, event: &str) {
        let candidates = self.within(line.tid, call, &[event]);
        self.claim(line, event, &candidates);
    }

    fn bind(&mut self, line: &Line, bind: &Bind, event: &str, device_event: &str) {
        if bind.via == Via::VfioContainer {
            return;
        }
        let of_device = |this: &Self, event: &str| -> Vec<usize> {
            let mut candidates = this.within(line.tid, bind.call, &[event]);
            // A close unbinds several.
            candidates
                .retain(|&index| bind.device.is_none() || this.spans[index].text("device") == bind.device.as_deref());
            candidates
        };
        let candidates = of_device(self, event);
        if let Some(span) = self.claim(line, event, &candidates) {
            self.expect_known(line, span, "group", bind.group);
            self.expect(line, span, "device_id", bind.device_id);
            self.expect(line, span, "ret", 0);
        }
        if bind.via == Via::Mock {
            let candidates = of_device(self, device_event);
            if let Some(span) = self.claim(line, device_event, &candidates) {
                self.expect_known(line, span, "group", bind.group);
            }
        }
    }

    fn fault_queue(&mut self, line: &Line, call: Call, id: u32) {
        let mut candidates = self.within(line.tid, call, &["fault_queue_destroy"]);
        candidates.retain(|&index| self.spans[index].number("object_id") == Some(u64::from(id)));
        self.claim(line, &format!("fault_queue_destroy of object {id}"), &candidates);
    }

    /// A write to a group's type that changes the domain is one switch to a domain of that type.
    fn default_domain(&mut self, line: &Line, core: bool) {
        let Fact::DefaultDomain(domain) = &line.fact else { return };
        let candidates = self.within(line.tid, domain.call, &["replace"]);
        if !core {
            if let Some(&index) = candidates.first() {
                self.claimed[index] = true;
                self.differences.add("a switch where the domain stays", Some(line), Some(self.spans[index]));
            }
            return;
        }
        if !self.sees_switches && candidates.is_empty() {
            return;
        }
        if let Some(span) = self.claim(line, "replace by the core", &candidates) {
            self.expect(line, span, "group", domain.group);
            self.expect(line, span, "owner", "kernel");
            self.expect(line, span, "pasid", 0);
            self.expect(line, span, "ret", domain.call.ret);
            // DMA-FQ is told apart by the domain's type where flush queues are in use, and is DMA otherwise.
            let got = span.text("domain_type").unwrap_or_default();
            let holds = got == domain.after.to_lowercase() || (got == "dma" && domain.after == "DMA-FQ");
            self.ensure(holds, &format!("domain_type: expected {}, got {got}", domain.after), line, span);
        }
    }

    /// A device is in its fault queue exactly while one of its slots can fault.
    fn fault_capable_devices(&mut self) {
        let mut capable: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (line, slot) in std::mem::take(&mut self.changes) {
            let Some(device) = &slot.device else { continue };
            let slots = capable.entry(device.clone()).or_default();
            let before = !slots.is_empty();
            if slot.fault_id.is_some() && !matches!(line.fact, Fact::Detach(_)) {
                slots.insert(slot.pasid);
            } else {
                slots.remove(&slot.pasid);
            }
            let event = match (before, !slots.is_empty()) {
                (false, true) => "iopf_enable",
                (true, false) => "iopf_disable",
                _ => continue,
            };
            let mut candidates = self.within(line.tid, slot.call, &[event]);
            candidates.retain(|&index| self.spans[index].text("device") == Some(device));
            if let Some(span) = self.claim(line, event, &candidates)
                && self.trust == Trust::Whole
            {
                self.expect(line, span, "ret", 0);
            }
        }
    }
}

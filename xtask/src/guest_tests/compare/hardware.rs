//! What the IOMMU itself does: unrecoverable faults, and mappings where they are traced.

use std::collections::BTreeMap;

use super::{Comparison, INTERRUPT_LATENCY, Trust};
use crate::guest_tests::{
    trace::Span,
    truth::{DmaFault, Fact, Line, Range},
};

/// VT-d's reasons: the page table entry does not allow writing, or reading.
const REASON_WRITE: u32 = 5;
const REASON_READ: u32 = 6;

impl Comparison<'_> {
    pub(super) fn dma_faults(&mut self) {
        let faults: Vec<(&Line, &DmaFault)> = self
            .truth
            .lines
            .iter()
            .filter_map(|line| match &line.fact {
                Fact::DmaFault(fault) => Some((line, fault)),
                _ => None,
            })
            .collect();
        for (at, &(line, fault)) in faults.iter().enumerate() {
            // Until the next transfer of the same kind, whose fault says the same.
            let again =
                faults[at + 1..].iter().find(|(_, next)| (&next.iova, next.write) == (&fault.iova, fault.write));
            let until = (fault.call.ts1 + INTERRUPT_LATENCY).min(again.map_or(u64::MAX, |(_, next)| next.call.ts0));
            let candidates: Vec<usize> = (0..self.spans.len())
                .filter(|&index| {
                    let span = self.spans[index];
                    !self.claimed[index]
                        && span.event == "dma_fault"
                        && span.ts >= fault.call.ts0
                        && span.ts <= until
                        && span.text("addr") == Some(&fault.iova)
                })
                .collect();
            if candidates.is_empty() {
                self.claim(line, "dma_fault at this address", &[]);
            }
            // The IOMMU may report one transfer as one fault or more.
            for index in candidates {
                self.claimed[index] = true;
                let span = self.spans[index];
                self.expect(line, span, "device", fault.device.as_str());
                self.expect_known(line, span, "group", fault.group);
                let (access, reason) = if fault.write { ("write", REASON_WRITE) } else { ("read", REASON_READ) };
                self.expect(line, span, "access", access);
                self.expect(line, span, "reason", reason);
                self.expect(line, span, "iommu", "dmar0");
                // As the kernel prints it, without the PCI domain.
                self.expect(line, span, "source_id", fault.device.trim_start_matches("0000:"));
            }
        }
    }

    /// Each page table of the space gets the whole range, in pieces.
    pub(super) fn maps(&mut self) {
        for line in &self.truth.lines {
            match &line.fact {
                Fact::Map(range) => self.pieces(line, range, "map", range.length, |span| span.number("size")),
                Fact::Unmap(range) => {
                    let bytes = range.unmapped.unwrap_or_default();
                    self.pieces(line, range, "unmap", bytes, |span| span.number("ret"));
                }
                _ => {}
            }
        }
    }

    fn pieces(&mut self, line: &Line, range: &Range, event: &str, bytes: u64, size: fn(&Span) -> Option<u64>) {
        if range.call.ret != 0 {
            return;
        }
        let candidates = self.within(line.tid, range.call, &[event]);
        let first = hex(&range.iova);
        let mut domains: BTreeMap<String, u64> = BTreeMap::new();
        for index in candidates {
            self.claimed[index] = true;
            let span = self.spans[index];
            let at = hex(span.text("addr").unwrap_or_default());
            let inside = first <= at && at < first + range.length;
            self.ensure(inside, "addr: not within the range of the call", line, span);
            *domains.entry(span.get("domain").to_string()).or_default() += size(span).unwrap_or_default();
        }
        if self.trust == Trust::Lossy {
            return;
        }
        if domains.is_empty() {
            self.differences.add(&format!("the trace has no {event} within this call"), Some(line), None);
        }
        for (domain, total) in domains {
            if total != bytes {
                let message = format!("{event} of domain {domain}: expected {bytes} bytes in all, got {total}");
                self.differences.add(&message, Some(line), None);
            }
        }
    }
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default()
}

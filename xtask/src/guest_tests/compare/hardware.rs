//! What the IOMMU itself does: unrecoverable faults, and mappings where they are traced.

use std::collections::BTreeMap;

use super::{Comparison, INTERRUPT_LATENCY, Trust};
use crate::guest_tests::{
    trace::Span,
    truth::{DmaFault, Fact, Line, Range},
};

/// What an IOMMU tells of a DMA fault, by the function that tells it.
struct Telling {
    function: &'static str,
    iommu: &'static str,
    /// The reasons of a write and a read for which there is no mapping.
    reasons: [u32; 2],
    /// Whether it tells the access.
    access: bool,
    /// Whether an address is the page's, the access's own, or nothing at all.
    addr: Addr,
    source: Source,
}

/// How it names who made the request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// As the kernel prints a requester id, without the PCI domain.
    Requester,
    /// The stream id, which firmware makes of the requester id of a PCI device.
    Stream,
}

impl Source {
    fn of(self, device: &str) -> String {
        let requester = device.trim_start_matches("0000:");
        match self {
            Self::Requester => requester.to_owned(),
            Self::Stream => {
                let number = |text: &str| u32::from_str_radix(text, 16).unwrap_or(u32::MAX);
                let mut parts = requester.split([':', '.']).map(number);
                let mut next = || parts.next().unwrap_or(u32::MAX);
                let (bus, slot, function) = (next(), next(), next());
                format!("{:#x}", bus << 8 | slot << 3 | function)
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Addr {
    Page,
    Exact,
    /// QEMU's AMD-Vi writes no address (it shifts a 64-bit mask by 64), marks each request as an interrupt's, and its
    /// flags are not those of the specification. What the guest's kernel prints is the same.
    None,
}

const TELLINGS: [Telling; 5] = [
    // The page table entry does not allow writing, or reading.
    Telling {
        function: "dmar_fault",
        iommu: "dmar0",
        reasons: [5, 6],
        access: true,
        addr: Addr::Page,
        source: Source::Requester,
    },
    // IO_PAGE_FAULT.
    Telling {
        function: "iommu_poll_events",
        iommu: "ivhd0",
        reasons: [2, 2],
        access: false,
        addr: Addr::None,
        source: Source::Requester,
    },
    Telling {
        function: "iommu_print_event",
        iommu: "ivhd0",
        reasons: [2, 2],
        access: false,
        addr: Addr::None,
        source: Source::Requester,
    },
    // VIRTIO_IOMMU_FAULT_R_MAPPING. QEMU sets neither of the flags that tell the access.
    Telling {
        function: "viommu_event_handler",
        iommu: "virtio0",
        reasons: [2, 2],
        access: false,
        addr: Addr::Exact,
        source: Source::Requester,
    },
    // F_TRANSLATION. The unit is where QEMU's `virt` machine has it.
    Telling {
        function: "arm_smmu_evtq_thread",
        iommu: "smmu3.0x0000000009050000",
        reasons: [0x10, 0x10],
        access: true,
        addr: Addr::Exact,
        source: Source::Stream,
    },
];

impl Telling {
    /// Whether an event is a fault of this transfer, as far as its address tells.
    fn fits(&self, span: &Span, fault: &DmaFault) -> bool {
        let (first, addr) = (hex(&fault.iova), hex(span.text("addr").unwrap_or_default()));
        match self.addr {
            Addr::Page => addr == first & !0xfff,
            Addr::Exact => (first..first + fault.length).contains(&addr),
            Addr::None => addr == 0 || (first..first + fault.length).contains(&addr),
        }
    }
}

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
            let telling = |span: &Span| TELLINGS.iter().find(|t| Some(t.function) == span.text("function"));
            let until = |telling: &Telling| {
                // Until the next transfer whose fault says the same.
                let same = |next: &DmaFault| {
                    telling.addr != Addr::None && (&next.iova, next.write) == (&fault.iova, fault.write)
                };
                let again = faults[at + 1..].iter().find(|(_, next)| same(next));
                (fault.call.ts1 + INTERRUPT_LATENCY).min(again.map_or(u64::MAX, |(_, next)| next.call.ts0))
            };
            let mut candidates: Vec<usize> = (0..self.spans.len())
                .filter(|&index| {
                    let span = self.spans[index];
                    !self.claimed[index]
                        && span.event == "dma_fault"
                        && span.ts >= fault.call.ts0
                        && telling(span).is_some_and(|t| span.ts <= until(t) && t.fits(span, fault))
                })
                .collect();
            // edu accesses four bytes at a time. Faults without an address are told apart by their number only.
            if candidates.first().and_then(|&index| telling(self.spans[index])).is_some_and(|t| t.addr == Addr::None) {
                candidates.truncate(usize::try_from(fault.length / 4).unwrap_or(usize::MAX));
            }
            if candidates.is_empty() {
                self.claim(line, "dma_fault at this address", &[]);
            }
            // The IOMMU may report one transfer as one fault or more.
            for index in candidates {
                self.claimed[index] = true;
                let span = self.spans[index];
                self.expect(line, span, "device", fault.device.as_str());
                self.expect_known(line, span, "group", fault.group);
                let Some(telling) = telling(span) else { continue };
                let (access, reason) = if fault.write { ("write", 0) } else { ("read", 1) };
                self.expect(line, span, "access", if telling.access { access } else { "unknown" });
                self.expect(line, span, "reason", telling.reasons[reason]);
                self.expect(line, span, "iommu", telling.iommu);
                self.expect(line, span, "source_id", telling.source.of(&fault.device).as_str());
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

//! The table of metrics: docs/metrics.md is made from it, and the dashboards are tested against it.

use super::Bounds;
use crate::model::span::Topic;

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets, from zero.
    Histogram(Bounds),
    /// Always one; what it tells is in its labels.
    Info,
}

impl Kind {
    /// As OpenMetrics calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
            Kind::Info => "info",
        }
    }
}

/// What it is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// What it adds to a name, without the underscore; empty for numbers of things.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
        }
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Which.
    pub id: Id,
    /// Its name without unit and suffix.
    pub stem: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
    /// Where the number comes from.
    pub from: &'static str,
    /// It is there only when this topic is traced: what is not watched must not look like zero.
    pub topic: Option<Topic>,
}

impl Metric {
    /// The family's name: stem and unit.
    #[must_use]
    pub fn family(&self) -> String {
        match self.unit {
            Unit::None => self.stem.to_owned(),
            unit => format!("{}_{}", self.stem, unit.name()),
        }
    }

    /// The names under which its series are asked for.
    #[must_use]
    pub fn series(&self) -> Vec<String> {
        let family = self.family();
        let suffixes: &[&str] = match self.kind {
            Kind::Counter => &["_total"],
            Kind::Gauge => &[""],
            Kind::Histogram(_) => &["_bucket", "_sum", "_count"],
            Kind::Info => &["_info"],
        };
        suffixes.iter().map(|suffix| format!("{family}{suffix}")).collect()
    }
}

macro_rules! metrics {
    ($($id:ident: $stem:literal, $kind:expr, $unit:ident, [$($label:literal),*], $topic:expr, $help:literal, $from:literal;)+) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Id {
            $(#[doc = concat!("`", $stem, "`")] $id,)+
        }

        /// Every metric, in the order of [`Id`].
        pub const METRICS: &[Metric] = &[
            $(Metric {
                id: Id::$id,
                stem: $stem,
                kind: $kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: $help,
                from: $from,
                topic: $topic,
            },)+
        ];
    };
}

impl Id {
    /// Its entry in the table.
    #[must_use]
    pub fn metric(self) -> &'static Metric {
        // The macro makes both in one order.
        &METRICS[self as usize]
    }
}

use Kind::{Counter, Gauge, Info};
const KERNEL: Kind = Kind::Histogram(Bounds::Kernel);
const USER: Kind = Kind::Histogram(Bounds::User);

metrics! {
    Build: "iommu_trace_build", Info, None, ["version"], None,
        "The running iommu-trace.", "the build";
    Kernel: "iommu_trace_kernel", Info, None, ["release", "machine", "host"], None,
        "The traced kernel and its machine.", "uname, or the recording";
    SourceUp: "iommu_trace_source_up", Gauge, None, [], None,
        "1 while events are read, 0 once a recording is over.", "the source";
    Probes: "iommu_trace_probes", Gauge, None, ["verdict"], None,
        "Probes by what became of them; a broken one means that something is not seen.", "the plan of probes";
    Records: "iommu_trace_records", Counter, None, ["probe"], None,
        "Records read, by the kernel function that was probed.", "the source";
    Lost: "iommu_trace_lost", Counter, None, ["probe"], None,
        "Records lost, by the kernel function that was probed: what depends on them is uncertain.", "counters in BPF";
    Events: "iommu_trace_events", Counter, None, ["event"], None,
        "Events, by the name they have in docs/events.md.", "the model";

    Faults: "iommu_trace_faults", Counter, None, ["group", "device", "response"], None,
        "I/O page faults that are over, by their answer; none is without answer, partial has no answer of its own.",
        "fault";
    FaultsOutstanding: "iommu_trace_faults_outstanding", Gauge, None, [], None,
        "I/O page faults that were reported and are not over.", "the model";
    FaultInterrupt: "iommu_trace_fault_interrupt", KERNEL, Seconds, ["group", "device"], None,
        "From the thread of VT-d's page request interrupt beginning its work to the report of a fault.",
        "fault: interrupt_ns";
    FaultLookup: "iommu_trace_fault_lookup", KERNEL, Seconds, ["group", "device"], None,
        "From the report of a fault to its attach handle being found.", "fault: lookup_ns";
    FaultDeviceId: "iommu_trace_fault_device_id", KERNEL, Seconds, ["group", "device"], None,
        "From the report of a fault to iommufd's device id being read from its handle.", "fault: device_id_ns";
    FaultHandler: "iommu_trace_fault_handler", KERNEL, Seconds, ["group", "device"], None,
        "From the report of a fault to its domain's handler being entered.", "fault: handler_ns";
    FaultDelivered: "iommu_trace_fault_delivered", USER, Seconds, ["group", "device"], None,
        "From the report of a fault to user space having read it.", "fault: delivered_ns";
    FaultResponse: "iommu_trace_fault_response", USER, Seconds, ["group", "device"], None,
        "From the report of a fault to its answer being given to the device.", "fault: response_ns";
    Lookups: "iommu_trace_lookups", Counter, None, ["result"], None,
        "Look-ups of an attach handle by group and PASID.", "iommu_attach_handle_get()";
    MirrorLookups: "iommu_trace_mirror_lookups", Counter, None, ["result"], None,
        "Look-ups that iommu-trace did as well, by whether it found the device id that the kernel found.", "the mirror";
    MirrorLookup: "iommu_trace_mirror_lookup", KERNEL, Seconds, [], None,
        "How long the mirror's own look-ups took.", "the mirror";
    DmaFaults: "iommu_trace_dma_faults", Counter, None, ["group", "device", "access"], None,
        "Unrecoverable DMA faults.", "dma_fault";

    Handles: "iommu_trace_handles", Gauge, None, ["owner", "domain_type"], None,
        "Attach handles in their slots.", "the mirror";
    Slots: "iommu_trace_slots", Gauge, None, ["content"], None,
        "Slots (a group's RID or one of its PASIDs) by what is in them; bare is a domain without a handle.", "the mirror";
    DeviceHandles: "iommu_trace_device_handles", Gauge, None, ["group", "device"], None,
        "Attach handles in the slots of a device: one for its RID, and one a PASID.", "the mirror";
    Groups: "iommu_trace_groups", Gauge, None, [], None,
        "IOMMU groups.", "the mirror";
    Devices: "iommu_trace_devices", Gauge, None, [], None,
        "Devices in IOMMU groups.", "the mirror";
    Changes: "iommu_trace_changes", Counter, None, ["change", "owner", "result"], None,
        "Attaches, replaces and detaches.", "attach, replace, detach";
    Change: "iommu_trace_change", USER, Seconds, ["change"], None,
        "How long attaches, replaces and detaches took.", "attach, replace, detach: duration_ns";

    Violations: "iommu_trace_violations", Counter, None, ["rule", "severity"], None,
        "Broken rules of the handles' life.", "violation";
    Unjudged: "iommu_trace_unjudged", Counter, None, ["rule"], None,
        "What looked like a broken rule and was not certain.", "the judge";
    Unmatched: "iommu_trace_unmatched", Counter, None, ["what"], None,
        "Returns and ends of faults whose beginning was not seen.", "the model";
    Forgotten: "iommu_trace_forgotten", Counter, None, [], None,
        "Things that the model forgot because a table was full.", "the model";

    Mappings: "iommu_trace_mappings", Counter, None, ["operation", "result"], Some(Topic::Dma),
        "Map and unmap calls.", "map, unmap";
    Mapped: "iommu_trace_mapped", Counter, Bytes, ["operation"], Some(Topic::Dma),
        "Bytes that map and unmap calls were asked for.", "map, unmap: size";
    Mapping: "iommu_trace_mapping", KERNEL, Seconds, ["operation"], Some(Topic::Dma),
        "How long map and unmap calls took.", "map, unmap: duration_ns";
    Invalidation: "iommu_trace_invalidation", KERNEL, Seconds, ["kind"], Some(Topic::Invalidate),
        "How long queued invalidations took, by the kind of their first descriptor.", "invalidate: duration_ns";
    Flush: "iommu_trace_flush", KERNEL, Seconds, [], Some(Topic::Invalidate),
        "How long flushes of what IOMMUs have cached of a domain took, with the invalidations they came to.",
        "flush: duration_ns";

    BpfRun: "iommu_trace_bpf_run", Counter, Seconds, ["program"], None,
        "Run time of each BPF program; there when kernel.bpf_stats_enabled is 1.", "the kernel's statistics";
    BpfRuns: "iommu_trace_bpf_runs", Counter, None, ["program"], None,
        "Runs of each BPF program; there when kernel.bpf_stats_enabled is 1.", "the kernel's statistics";
    ProcessCpu: "process_cpu", Counter, Seconds, [], None,
        "CPU time of iommu-trace itself, user and system.", "CLOCK_PROCESS_CPUTIME_ID";
    ProcessMemory: "process_resident_memory", Gauge, Bytes, [], None,
        "Resident memory of iommu-trace itself.", "/proc/self/status";
    ProcessStart: "process_start_time", Gauge, Seconds, [], None,
        "When iommu-trace was started, since the Unix epoch.", "the clock";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_in_the_form_that_prometheus_wants() {
        let names: BTreeSet<String> = METRICS.iter().flat_map(Metric::series).collect();
        assert_eq!(names.len(), METRICS.iter().map(|metric| metric.series().len()).sum::<usize>());
        for metric in METRICS {
            let ours = metric.stem.starts_with("iommu_trace_") || metric.stem.starts_with("process_");
            assert!(ours && metric.stem.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", metric.stem);
            assert!(!metric.stem.ends_with("_total") && !metric.stem.ends_with("_info"), "{}", metric.stem);
            // Both would have to be escaped, and the forms disagree on how.
            assert!(!metric.help.contains(['"', '\\', '\n']), "{}", metric.help);
        }
    }
}

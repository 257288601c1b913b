//! docs/metrics.md is made from the table of metrics: `UPDATE_DOCS=1 cargo test --test metrics_doc` writes it anew.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

use std::{fmt::Write as _, fs, path::Path};

use iommu_trace::metrics::{Bounds, Kind, METRICS};

const HEAD: &str = "\
# Metrics

Made from the table in `iommu-trace/src/metrics/table.rs`. `iommu-trace serve` tells them at `/metrics`, as OpenMetrics to who asks for
that and in Prometheus' own text form to others, and pushes the same ones with `--otlp`. Units are seconds and bytes. Counters and
histograms are there from the start, at zero, and begin again at zero when `serve` is started. What is not watched is left out: it
must not look like zero.

**Labels are bounded.** `device` is a device's name and `group` its IOMMU group's number. The first 128 devices (`--device-limit`) have series of
their own, those in IOMMU groups at the start first; what comes later is counted together as device and group `other`. The fault histograms of
a device are there once it joined a fault queue or faulted. PASIDs are no label: there may be a million. The fault behind a number is in the
exemplars of `iommu_trace_fault_lookup_seconds` and `iommu_trace_fault_response_seconds` (`pasid`, `addr`, `grpid`; OpenMetrics only).
Every other label has its values from a fixed list. A device's name is told as it is; control characters and bytes that are no UTF-8 are
written as `\\n` and `\\xff` are.

**Rules** that rest on probes this kernel does not have, or on frees without `--track-frees` (`use-after-free`, `freed-while-attached`), are never
broken, and their counters stay at zero: `iommu_trace_probes` tells what is not seen, `iommu-trace check` tells which rules that leaves blind.

";

fn buckets(bounds: Bounds) -> String {
    let bounds: Vec<String> = bounds.seconds().map(|bound| bound.to_string()).collect();
    bounds.join(", ")
}

#[test]
fn the_metric_reference_is_what_the_table_says() {
    let mut doc = String::from(HEAD);
    for bounds in [Bounds::Kernel, Bounds::User] {
        let what = if bounds == Bounds::Kernel { "within the kernel" } else { "with user space, and of calls" };
        writeln!(doc, "Buckets of times {what}, seconds: {}.\n", buckets(bounds)).unwrap();
    }
    writeln!(doc, "| metric | kind | labels | tells | from |\n|---|---|---|---|---|").unwrap();
    for metric in METRICS {
        let name = match metric.kind {
            Kind::Histogram(_) => metric.family(),
            Kind::Counter | Kind::Gauge | Kind::Info => metric.series().concat(),
        };
        let kind = match metric.kind {
            Kind::Histogram(bounds) => format!("histogram ({})", format!("{bounds:?}").to_lowercase()),
            kind => kind.name().to_owned(),
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let topic = metric.topic.map_or_else(String::new, |topic| {
            format!(" Only with `--events` that have `{}`.", format!("{topic:?}").to_lowercase())
        });
        writeln!(doc, "| `{name}` | {kind} | {} | {}{topic} | {} |", labels.join(", "), metric.help, metric.from)
            .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &doc).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == doc, "docs/metrics.md is out of step: UPDATE_DOCS=1 cargo test --test metrics_doc");
}

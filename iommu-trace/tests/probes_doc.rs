//! docs/probes.md is made from the catalogue: `UPDATE_DOCS=1 cargo test --test probes_doc` writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use iommu_trace::probes::{CATALOGUE, Purpose, Reach, Way, stretch::POINTS};

const HEAD: &str = "\
# Probes

Made from the catalogue in `iommu-trace/src/probes/catalogue.rs`; `iommu-trace doctor` tells which of them this kernel has.

A function of vmlinux is probed by fentry and fexit. Those marked *kprobe* have a form as kprobe and kretprobe as well: for a function that may be in
a module (`iommufd.ko`, `virtio-iommu.ko`, `arm_smmu_v3.ko`), for kernels that have no
fentry yet (arm64 before Linux 6.4), and for a copy that the compiler has made of a function in its place (`iommu_completion_wait.isra.0`). A tracepoint is probed by its BTF. A run without an **essential** probe makes no sense and ends.

";

const STRETCH: &str = "
`check --stretch` waits at these functions (`iommu-trace/src/probes/stretch.rs`). They are no probes: nothing is told from there, and the programs are loaded only
when they are asked for. Each is reached by fentry or fexit; a step that has two has both where the kernel has both.

| step | function | at | when |
|---|---|---|---|
";

#[test]
fn the_probe_reference_is_what_the_catalogue_says() {
    let mut doc = String::from(HEAD);
    doc.push_str("| function | at | reached as | topic | kernels | without it |\n|---|---|---|---|---|---|\n");
    for probe in CATALOGUE {
        let at = match (probe.enter, probe.exit) {
            (true, true) => "entry, return",
            (true, false) => "entry",
            _ => "return",
        };
        let reach = match probe.reach {
            Reach::Vmlinux => "function",
            Reach::Either | Reach::Copied | Reach::Iommufd => "function, *kprobe*",
            Reach::Tracepoint => "tracepoint",
            Reach::RawTracepoint => "raw tracepoint",
        };
        let topic = match probe.purpose {
            Purpose::Topic => format!("{:?}", probe.topic).to_lowercase(),
            Purpose::Snapshot => "snapshot".to_owned(),
            Purpose::Frees => "`--track-frees`".to_owned(),
        };
        let essential = if probe.essential { " **essential**" } else { "" };
        writeln!(
            doc,
            "| `{}`{essential} | {at} | {reach} | {topic} | {} | {} |",
            probe.id.function(),
            probe.kernels,
            probe.cost
        )
        .unwrap();
    }
    doc.push_str("\nThe prototypes that the programs were written against:\n\n```c\n");
    for probe in CATALOGUE.iter().filter(|probe| !matches!(probe.reach, Reach::Tracepoint | Reach::RawTracepoint)) {
        writeln!(doc, "{};", probe.prototype).unwrap();
    }
    doc.push_str("```\n");

    doc.push_str(STRETCH);
    for point in POINTS {
        let inside =
            point.inside.map_or_else(|| "any thread".to_owned(), |inside| format!("inside `{}`", inside.function));
        let at = if point.program.1 == Way::FEntry { "entry" } else { "return" };
        writeln!(doc, "| `{}` | `{}` | {at} | {inside} |", point.step, point.function).unwrap();
    }

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/probes.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &doc).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == doc, "docs/probes.md is out of step: UPDATE_DOCS=1 cargo test --test probes_doc");
}

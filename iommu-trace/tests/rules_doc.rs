//! docs/rules.md is made from the table of rules: `UPDATE_DOCS=1 cargo test --test rules_doc` writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use iommu_trace::model::RULES;

const HEAD: &str = "\
# Rules

Made from the table in `iommu-trace/src/model/rules/table.rs`. `iommu-trace check` judges them all unless told otherwise (`--rules`,
`--silence`), and `trace` shows a breach as it is found. A violation carries its evidence: the events that led to it, oldest first, with
task, CPU, time and kernel stack.

A rule fires only on what was seen whole. When records were lost, or a thing began before the trace and the snapshot does not tell it, what depends
on it is uncertain: nothing is said of it, and the summary counts what could not be judged. Each rule rests on some probes; without them
it is silent, and the summary says so.

Seen on real kernels so far, on Linux 7.3.4 with one bug put in each (`cargo xtask kernel variants`, `cargo xtask test --only broken`):
`fault-unanswered`, `fault-dropped`, `double-response`, `group-use-after-free`, `group-leak`, `freed-while-attached`, `stale-lookup` and
`handle-reused`; and `device-id-dangling` on the unmodified kernel, when one of two devices in a group is detached and unbound while the other
stays attached (`guest vfio --siblings`). The others were seen firing on constructed sequences of events only.
";

#[test]
fn the_rule_reference_is_what_the_table_says() {
    let mut doc = String::from(HEAD);
    for rule in RULES {
        let severity = format!("{:?}", rule.severity).to_lowercase();
        write!(
            doc,
            "\n## {}\n\n*{severity}.* Fires when {}.\n\nThe kernel's rule: {}. Where it is stated: {}.\n",
            rule.id.slug(),
            rule.summary,
            rule.demands,
            rule.stated
        )
        .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &doc).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == doc, "docs/rules.md is out of step: UPDATE_DOCS=1 cargo test --test rules_doc");
}

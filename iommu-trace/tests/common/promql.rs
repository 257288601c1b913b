//! As much of PromQL as it takes to find the metrics in an expression, and the rules in their files.

use std::{collections::BTreeSet, fs};

use serde::Deserialize;

/// The names of series in an expression: ours, a process's, `up`, and what recording rules make.
pub fn metrics(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':' | '"')) {
        rest = &rest[at..];
        if let Some(text) = rest.strip_prefix('"') {
            // None of ours has a quote in its strings.
            rest = text.split_once('"').map_or("", |(_, after)| after);
            continue;
        }
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(rest.len());
        let word = &rest[..end];
        if word.starts_with("iommu_trace_") || word.starts_with("process_") || word.contains(':') || word == "up" {
            found.insert(word.to_owned());
        }
        rest = &rest[end..];
    }
    found
}

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
pub struct Rule {
    pub record: Option<String>,
    pub alert: Option<String>,
    pub expr: String,
}

/// The rules of both files.
pub fn rules() -> Vec<Rule> {
    let read = |name: &str| -> File {
        serde_saphyr::from_str(&fs::read_to_string(super::grafana::dir().join("prometheus").join(name)).unwrap())
            .unwrap()
    };
    ["iommu-trace.rules.yml", "iommu-trace.alerts.yml"]
        .iter()
        .flat_map(|name| read(name).groups)
        .flat_map(|group| group.rules)
        .collect()
}

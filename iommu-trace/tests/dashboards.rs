//! Dashboards and rules are never out of step with the metrics: `UPDATE_DOCS=1 cargo test --test dashboards` makes the
//! dashboards anew.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use common::{grafana, promql};
use iommu_trace::metrics::{METRICS, Metric};

/// Every name that can be asked for, with its metric.
fn series() -> BTreeMap<String, &'static Metric> {
    METRICS.iter().flat_map(|metric| metric.series().into_iter().map(move |name| (name, metric))).collect()
}

#[test]
fn the_dashboards_are_what_panels_yml_says() {
    let dir = grafana::dir().join("grafana");
    for dashboard in grafana::panels().dashboards {
        let json = format!("{:#}\n", dashboard.json());
        let path = dir.join(format!("{}.json", dashboard.uid));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &json).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(there == json, "{} is out of step: UPDATE_DOCS=1 cargo test --test dashboards", path.display());
    }
}

#[test]
fn every_expression_names_metrics_that_are_there() {
    let (series, rules) = (series(), promql::rules());
    let recorded: BTreeSet<&str> = rules.iter().filter_map(|rule| rule.record.as_deref()).collect();
    let mut expressions = grafana::panels().expressions();
    for rule in &rules {
        let name = rule.record.as_ref().or(rule.alert.as_ref()).unwrap();
        expressions.push((name.clone(), rule.expr.clone()));
    }
    for (place, expression) in expressions {
        let metrics = promql::metrics(&expression);
        assert!(!metrics.is_empty(), "{place}: {expression}");
        for name in metrics {
            let known = series.contains_key(&name) || recorded.contains(name.as_str()) || name == "up";
            assert!(known, "{place}: there is no metric {name}");
        }
    }
}

#[test]
fn every_metric_is_in_a_panel_or_said_to_be_for_other_uses() {
    let panels = grafana::panels();
    let shown: BTreeSet<String> =
        panels.expressions().iter().flat_map(|(_, expression)| promql::metrics(expression)).collect();
    let elsewhere: BTreeSet<&String> = panels.elsewhere.keys().collect();
    for metric in METRICS {
        let names = metric.series();
        let in_panel = names.iter().any(|name| shown.contains(name));
        let said = names.iter().any(|name| elsewhere.contains(name));
        assert!(in_panel != said, "{}: in a panel {in_panel}, said to be for other uses {said}", metric.family());
    }
    for name in elsewhere {
        assert!(series().contains_key(name), "there is no metric {name}");
    }
}

#[test]
fn every_recording_rule_and_every_label_is_used_as_it_is() {
    // `by (…)` and the matchers name labels that the metric has.
    let common = ["job", "instance", "le", "job=~", "alertname"];
    for (place, expression) in grafana::panels().expressions() {
        let labels: BTreeSet<&str> = promql::metrics(&expression)
            .iter()
            .filter_map(|name| series().get(name).copied())
            .flat_map(|metric| metric.labels.iter().copied())
            .chain(common)
            .collect();
        for by in expression.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(',').map(str::trim) {
                assert!(labels.contains(label), "{place}: there is no label {label} in {expression}");
            }
        }
    }
    let rules = promql::rules();
    let used: BTreeSet<String> = rules.iter().flat_map(|rule| promql::metrics(&rule.expr)).collect();
    let for_people =
        ["instance_device:iommu_trace_faults:rate5m", "instance:iommu_trace_fault_response_seconds:p99_5m"];
    for recorded in rules.iter().filter_map(|rule| rule.record.as_ref()) {
        assert!(used.contains(recorded) || for_people.contains(&recorded.as_str()), "{recorded} is of no use");
    }
}

#[test]
fn every_alert_is_tested_and_described() {
    let dir = grafana::dir();
    let tests = fs::read_to_string(dir.join("prometheus/tests/alerts.test.yml")).unwrap();
    let readme = fs::read_to_string(dir.join("README.md")).unwrap();
    for alert in promql::rules().iter().filter_map(|rule| rule.alert.as_ref()) {
        let fires = tests
            .split(&format!("alertname: {alert}\n"))
            .skip(1)
            .any(|after| after.trim_start().starts_with("exp_alerts"));
        assert!(fires, "no test has {alert} fire");
        let silent = tests.contains(&format!("alertname: {alert}}}"));
        assert!(silent, "no test has {alert} be silent when all is well");
        assert!(readme.contains(&format!("`{alert}`")), "the README does not know {alert}");
    }
}

#[test]
fn metrics_are_found_in_expressions() {
    let found = promql::metrics(r#"sum by (instance) (rate(iommu_trace_x_total{job="process_x"}[5m])) > up + a:b:c"#);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a:b:c", "iommu_trace_x_total", "up"]);
}

//! The JSON lines: what docs/events.schema.json and docs/events.md promise is what is written.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use std::collections::BTreeSet;

use clap::ValueEnum as _;
use iommu_trace::{
    event::{DomainType, Ptr, ResponseCode},
    model::{
        RuleId,
        span::{ChangeSpan, FaultSpan, Response, Span, SpanKind, Topic},
    },
    output::{Clock, Exit, JSON_SCHEMA, JsonSink, Reason, Sink as _, Tally, TimeForm},
    source::Frame,
};
use serde_json::Value;

const REFERENCE: &str = include_str!("../../docs/events.md");

fn lines(time: TimeForm, stacks: bool, spans: &[Span], frames: &[Frame]) -> Vec<String> {
    let info = common::info();
    let mut out = Vec::new();
    let mut sink = JsonSink::new(&mut out, Clock::new(time, &info), stacks);
    sink.start(&common::start(&info)).unwrap();
    for span in spans {
        sink.span(span, frames).unwrap();
    }
    sink.violation(&common::violation(), &[frames.to_vec(), vec![], frames.to_vec()]).unwrap();
    sink.end(&common::summary()).unwrap();
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

fn validate(lines: &[String]) {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for line in lines {
        let value: Value = serde_json::from_str(line).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{line}\n{errors:#?}");
    }
}

#[test]
fn every_line_fits_the_schema() {
    for time in [TimeForm::Relative, TimeForm::Monotonic, TimeForm::Utc] {
        validate(&lines(time, false, &common::samples(), &[]));
        validate(&lines(time, true, &common::samples(), &common::frames()));
    }
}

#[test]
fn extreme_values_fit_the_schema() {
    let fault = FaultSpan {
        addr: u64::MAX,
        pasid: Some(u32::MAX),
        ret: Some(i64::MIN),
        response: Response(Some(ResponseCode::Other(77))),
        response_ns: Some(u64::MAX),
        ..common::fault()
    };
    let change = ChangeSpan {
        domain: Ptr::NULL,
        domain_type: DomainType(0x1234),
        group: None,
        device: None,
        handle: None,
        device_id: None,
        ..common::attach()
    };
    let mut span = common::span(0, SpanKind::Fault(fault));
    span.ts = u64::MAX;
    validate(&lines(TimeForm::Utc, true, &[span, common::span(0, SpanKind::Attach(change))], &[]));

    let info = common::info();
    let mut out = Vec::new();
    let exit = Exit { reason: Reason::Interrupt, command: None };
    JsonSink::new(&mut out, Clock::new(TimeForm::Utc, &info), true).end(&Tally::default().summary(5, 0, exit)).unwrap();
    validate(&[String::from_utf8(out).unwrap()]);
}

#[test]
fn a_stream_id_fits_the_schema_as_a_requester_does() {
    let mut spans: Vec<Span> =
        common::samples().into_iter().filter(|span| matches!(span.kind, SpanKind::DmaFault(_))).collect();
    for span in &mut spans {
        let SpanKind::DmaFault(fault) = &mut span.kind else { unreachable!() };
        // As SMMUv3's faults are told.
        fault.source_id = Some("0x1001a".into());
    }
    assert!(!spans.is_empty());
    validate(&lines(TimeForm::Relative, false, &spans, &[]));
}

#[test]
fn the_schema_has_every_rule_and_topic() {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    let listed = |value: &Value| -> Vec<String> { serde_json::from_value(value["enum"].clone()).unwrap() };
    let rules: Vec<&str> = RuleId::ALL.iter().map(|rule| rule.slug()).collect();
    assert_eq!(listed(&schema["$defs"]["rule"]), rules);
    let topics = Topic::value_variants().iter().map(|topic| serde_json::to_value(topic).unwrap());
    let topics: Vec<String> = topics.map(|topic| topic.as_str().unwrap().to_owned()).collect();
    assert_eq!(listed(&schema["$defs"]["start"]["properties"]["topics"]["items"]), topics);
}

#[test]
fn the_schema_lets_nothing_else_pass() {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    for line in lines(TimeForm::Relative, false, &common::samples(), &[]) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let mut more = line.clone();
        more["surprise"] = Value::from(1);
        assert!(!validator.is_valid(&more), "{more}");
        for field in line.as_object().unwrap().keys() {
            let mut less = line.clone();
            less.as_object_mut().unwrap().remove(field);
            assert!(!validator.is_valid(&less), "{field} may be missing: {less}");
        }
    }
}

#[test]
fn lines_look_like_this() {
    let spans: Vec<Span> = common::samples();
    insta::assert_snapshot!(lines(TimeForm::Relative, false, &spans, &[]).join("\n"));
    insta::assert_snapshot!(
        "with_time_and_stack",
        lines(TimeForm::Utc, true, &spans[7..8], &common::frames()).join("\n")
    );
}

/// The fields that a section of the reference lists: the first code word of each row of its tables.
fn documented(section: &str) -> BTreeSet<String> {
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn section(event: &str) -> &'static str {
    REFERENCE
        .split("\n## ")
        .skip(1)
        .find(|section| section.lines().next().unwrap_or_default().contains(&format!("`{event}`")))
        .unwrap_or_else(|| panic!("docs/events.md has no section for `{event}`"))
}

#[test]
fn the_reference_has_every_event_and_every_field() {
    let common: BTreeSet<String> = documented(
        REFERENCE
            .split("\n## ")
            .find(|section| section.starts_with("Common fields"))
            .expect("a section of common fields"),
    );
    for line in lines(TimeForm::Utc, true, &common::samples(), &common::frames()) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let event = line["event"].as_str().unwrap();
        let listed = documented(section(event));
        let fields: BTreeSet<String> = line.as_object().unwrap().keys().cloned().collect();
        let own: BTreeSet<String> = fields.difference(&common).cloned().collect();
        assert_eq!(own, &listed - &common, "fields of `{event}` and what docs/events.md says of it");
    }
}

#[test]
fn examples_of_the_reference_fit_the_schema() {
    let examples: Vec<String> = REFERENCE.lines().filter(|line| line.starts_with('{')).map(str::to_owned).collect();
    assert!(examples.len() > 10, "{}", examples.len());
    validate(&examples);
}

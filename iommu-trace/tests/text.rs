//! The text output, as people see it.
#![allow(missing_docs, clippy::unwrap_used, reason = "this is a test")]

mod common;

use iommu_trace::{
    event::{Comm, Name},
    model::span::{FaultSpan, Span, SpanKind},
    output::{Clock, Exit, Palette, Reason, Sink as _, Tally, TextOptions, TextSink, TimeForm},
    source::Frame,
};

/// A terminal of so many columns, or a pipe.
fn options(palette: Palette, columns: Option<usize>) -> TextOptions {
    TextOptions { palette, columns: columns.unwrap_or(100), wrap: columns.is_some(), heads: true }
}

fn text(time: TimeForm, columns: Option<usize>, palette: Palette, spans: &[Span], stack: &[Frame]) -> String {
    let info = common::info();
    let mut out = Vec::new();
    let mut sink = TextSink::new(&mut out, Clock::new(time, &info), options(palette, columns));
    sink.start(&common::start(&info)).unwrap();
    for span in spans {
        sink.span(span, stack).unwrap();
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn every_kind_of_span_in_a_pipe() {
    insta::assert_snapshot!(text(TimeForm::Relative, None, Palette::plain(), &common::samples(), &[]));
}

#[test]
fn every_kind_of_span_on_a_wide_terminal() {
    insta::assert_snapshot!(text(TimeForm::Monotonic, Some(180), Palette::plain(), &common::samples(), &[]));
}

#[test]
fn every_kind_of_span_on_a_terminal_of_100_columns() {
    let text = text(TimeForm::Relative, Some(100), Palette::plain(), &common::samples(), &[]);
    let longest = text.lines().skip(3).map(|line| line.chars().count()).max();
    assert!(longest <= Some(100), "{longest:?}\n{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn a_narrow_terminal_wraps_between_facts_and_never_panics() {
    insta::assert_snapshot!(text(TimeForm::Utc, Some(60), Palette::plain(), &common::samples()[..8], &[]));
    for columns in 0..60 {
        text(TimeForm::Utc, Some(columns), Palette::plain(), &common::samples(), &common::frames());
    }
}

#[test]
fn colours_mark_what_went_well_and_what_did_not() {
    let spans: Vec<Span> = common::samples()
        .into_iter()
        .filter(|span| matches!(span.kind, SpanKind::Fault(_) | SpanKind::Lost(_)))
        .collect();
    let text = text(TimeForm::Relative, None, Palette::coloured(), &spans, &[]);
    insta::assert_snapshot!(text.replace('\u{1b}', "␛"));
}

#[test]
fn stacks_stand_indented_below_their_span() {
    let spans = &common::samples()[7..9];
    insta::assert_snapshot!(text(TimeForm::Relative, None, Palette::plain(), spans, &common::frames()));
}

#[test]
fn names_from_the_kernel_cannot_steer_the_terminal() {
    let fault = FaultSpan { device: Name::new("\u{1b}[2J"), ..common::fault() };
    let mut span = common::span(0, SpanKind::Fault(fault));
    span.comm = Comm::new("a\nb\u{1b}c");
    let frame = Frame { addr: 0, symbol: "\u{1b}]0;x\u{7}".into() };
    let text = text(TimeForm::Relative, Some(200), Palette::plain(), &[span], &[frame]);
    assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    assert_eq!(text.lines().count(), 5, "{text}");
}

#[test]
fn a_violation_stands_out_with_its_evidence() {
    let info = common::info();
    let mut out = Vec::new();
    let options = options(Palette::plain(), None);
    let mut sink = TextSink::new(&mut out, Clock::new(TimeForm::Relative, &info), options);
    sink.violation(&common::violation(), &[common::frames(), vec![], vec![]]).unwrap();
    insta::assert_snapshot!(String::from_utf8(out).unwrap());
}

fn end(summary: &iommu_trace::output::Summary) -> String {
    let info = common::info();
    let mut out = Vec::new();
    let options = options(Palette::plain(), None);
    TextSink::new(&mut out, Clock::new(TimeForm::Relative, &info), options).end(summary).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_summary_of_a_busy_run() {
    insta::assert_snapshot!(end(&common::summary()));
}

#[test]
fn the_summary_of_a_run_without_events() {
    let exit = Exit { reason: Reason::Interrupt, command: None };
    insta::assert_snapshot!(end(&Tally::default().summary(0, 1_500_000_000, exit)));
}

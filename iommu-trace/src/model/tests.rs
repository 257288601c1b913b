//! How events are joined, as sentences about the kernel.

mod certainty;
mod changes;
mod faults;
mod objects;
mod rules;
mod simulation;

use super::{
    Effects,
    span::{ChangeSpan, FaultSpan, Span, SpanKind},
};

/// The names of the spans, in the order they were told.
fn names(effects: &Effects) -> Vec<&'static str> {
    effects.spans.iter().map(|span| span.kind.name()).collect()
}

fn changes(effects: &Effects) -> Vec<(&Span, &ChangeSpan)> {
    effects
        .spans
        .iter()
        .filter_map(|span| match &span.kind {
            SpanKind::Attach(change) | SpanKind::Replace(change) | SpanKind::Detach(change) => Some((span, change)),
            _ => None,
        })
        .collect()
}

pub(super) fn faults(effects: &Effects) -> Vec<&FaultSpan> {
    effects
        .spans
        .iter()
        .filter_map(|span| match &span.kind {
            SpanKind::Fault(fault) => Some(fault),
            _ => None,
        })
        .collect()
}

/// The slugs of the violations, in the order they were told.
fn broken(effects: &Effects) -> Vec<&'static str> {
    effects.violations.iter().map(|violation| violation.rule.slug()).collect()
}

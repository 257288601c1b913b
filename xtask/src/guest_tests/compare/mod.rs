//! Compares a trace with the ground truth, event by event. Pure.
//!
//! Every event of the trace must be claimed by a fact of the truth, and every fact must find its events. What truth has
//! no line for (the core's own switches of domains, domains freed) must lie in a call that brings it about.

mod calls;
mod faults;
mod hardware;
mod slots;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt::Write as _};

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    trace::{Span, Trace},
    truth::{Call, Fact, Line, Slot, Truth, Via},
};

/// Differences that are shown; the others are counted.
const SHOWN: usize = 6;
/// What switches between the core's own domains. Kernels before 6.4 do it in other places, which no probe reaches.
const SWITCHES: &str = "__iommu_group_set_domain_internal";
/// How long after its cause an interrupt may come.
const INTERRUPT_LATENCY: u64 = 2_000_000_000;

/// What can be asked of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Everything.
    Whole,
    /// Records were lost: what is there must be true, and what is missing may be.
    Lossy,
}

/// Compares a trace with the truths of the programs that ran under it, one after the other. Gives back one result for
/// each program, and one for what belongs to none.
pub fn compare(trace: &Trace, truths: &[Truth], trust: Trust) -> (Vec<Result<()>>, Result<()>) {
    let mut parts: Vec<Vec<&Span>> = vec![Vec::new(); truths.len()];
    let mut orphans = Differences::default();
    // A loss is nobody's.
    let is_excused =
        |span: &Span| span.event == "lost" && (trust == Trust::Lossy || span.text("probe") == Some(Trace::MISSED));
    for span in trace.spans.iter().filter(|span| !is_excused(span)) {
        let owner = truths
            .iter()
            .position(|truth| truth.pid == span.pid)
            // Interrupts hit any task.
            .or_else(|| truths.iter().rposition(|t| t.began <= span.ts && span.ts <= t.ended + INTERRUPT_LATENCY));
        match owner {
            Some(owner) => parts[owner].push(span),
            None => orphans.add("nothing that ran explains this event", None, Some(span)),
        }
    }
    let dma = trace.has_topic("dma");
    let results = truths
        .iter()
        .zip(&parts)
        .map(|(truth, spans)| {
            let mut comparison = Comparison::new(truth, spans, trust);
            comparison.sees_switches = trace.has_probe(SWITCHES);
            comparison.slots();
            comparison.calls();
            comparison.faults();
            comparison.dma_faults();
            if dma {
                comparison.maps();
            }
            comparison.violations();
            comparison.consequences();
            comparison.unexplained();
            comparison.differences.into_result()
        })
        .collect();
    (results, orphans.into_result())
}

/// What differs, in words: one entry for each pair of lines.
#[derive(Debug, Default)]
struct Differences {
    shown: Vec<Difference>,
    last: Pair,
    count: usize,
}

/// A line of truth and an event.
type Pair = (Option<String>, Option<String>);

/// What differs between the two.
#[derive(Debug)]
struct Difference {
    messages: Vec<String>,
    pair: Pair,
}

impl Differences {
    fn add(&mut self, message: &str, truth: Option<&Line>, span: Option<&Span>) {
        let pair = (truth.map(|line| line.raw.clone()), span.map(|span| span.raw.clone()));
        let is_new = pair == (None, None) || pair != self.last;
        if is_new {
            self.count += 1;
            self.last.clone_from(&pair);
        }
        if is_new && self.count <= SHOWN {
            self.shown.push(Difference { messages: vec![message.to_owned()], pair });
        } else if let (true, Some(shown)) = (self.count <= SHOWN, self.shown.last_mut()) {
            shown.messages.push(message.to_owned());
        }
    }

    fn into_result(self) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let mut text = format!("trace and truth differ in {} places", self.count);
        for difference in &self.shown {
            let _ = write!(text, "\n  {}", difference.messages.join("\n  "));
            for (name, line) in [("truth", &difference.pair.0), ("trace", &difference.pair.1)] {
                if let Some(line) = line {
                    let _ = write!(text, "\n    {name}: {line}");
                }
            }
        }
        if self.count > SHOWN {
            let _ = write!(text, "\n  … and {} more", self.count - SHOWN);
        }
        bail!(text);
    }
}

/// An attach handle's time in a slot, as the trace tells it.
#[derive(Clone, Debug)]
struct Tenancy {
    group: u64,
    pasid: u32,
    device_id: Option<u64>,
    handle: Value,
    domain: Value,
    /// From the beginning of the attach; to the end of the detach or replace.
    from: u64,
    to: Option<u64>,
}

/// One program's part of a trace, and its truth.
struct Comparison<'a> {
    truth: &'a Truth,
    spans: &'a [&'a Span],
    /// For each span whether a fact has claimed it.
    claimed: Vec<bool>,
    /// Spans by thread, in the order of their beginning.
    by_tid: HashMap<u32, Vec<usize>>,
    tenancies: Vec<Tenancy>,
    /// Changes of slots that succeeded, in the order of the core's functions.
    changes: Vec<(&'a Line, &'a Slot)>,
    trust: Trust,
    /// Whether this kernel has the function that switches between the core's own domains.
    sees_switches: bool,
    differences: Differences,
}

impl<'a> Comparison<'a> {
    fn new(truth: &'a Truth, spans: &'a [&'a Span], trust: Trust) -> Self {
        let mut by_tid: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, span) in spans.iter().enumerate() {
            by_tid.entry(span.tid).or_default().push(index);
        }
        for indices in by_tid.values_mut() {
            indices.sort_by_key(|&index| spans[index].ts);
        }
        Self {
            truth,
            spans,
            claimed: vec![false; spans.len()],
            by_tid,
            tenancies: Vec::new(),
            changes: Vec::new(),
            trust,
            sees_switches: true,
            differences: Differences::default(),
        }
    }

    /// The unclaimed spans of these events that began and ended within a call, on its thread; in the order of the file.
    fn within(&self, tid: u32, call: Call, events: &[&str]) -> Vec<usize> {
        let of_thread = self.by_tid.get(&tid).map_or(&[][..], Vec::as_slice);
        let first = of_thread.partition_point(|&index| self.spans[index].ts < call.ts0);
        let mut within: Vec<usize> = of_thread[first..]
            .iter()
            .copied()
            .take_while(|&index| self.spans[index].ts <= call.ts1)
            .filter(|&index| {
                let span = self.spans[index];
                !self.claimed[index] && span.end() <= call.ts1 && events.contains(&span.event.as_str())
            })
            .collect();
        within.sort_unstable();
        within
    }

    /// Claims the one span that a fact must have; tells when there is none, or more than one.
    fn claim(&mut self, line: &Line, what: &str, candidates: &[usize]) -> Option<&'a Span> {
        match candidates {
            [] => {
                if self.trust == Trust::Whole {
                    self.differences.add(&format!("the trace has no {what}"), Some(line), None);
                }
                None
            }
            [only] => {
                self.claimed[*only] = true;
                Some(self.spans[*only])
            }
            [first, second, ..] => {
                let message = format!("the trace has {} times {what}, not once", candidates.len());
                self.differences.add(&message, Some(line), Some(self.spans[*second]));
                for index in candidates {
                    self.claimed[*index] = true;
                }
                Some(self.spans[*first])
            }
        }
    }

    /// Compares one field.
    fn expect(&mut self, line: &Line, span: &Span, field: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        let got = span.get(field);
        if *got != expected {
            self.differences.add(&format!("{field}: expected {expected}, got {got}"), Some(line), Some(span));
        }
    }

    /// Compares one field where truth knows it.
    fn expect_known<T: Into<Value>>(&mut self, line: &Line, span: &Span, field: &str, expected: Option<T>) {
        if let Some(expected) = expected {
            self.expect(line, span, field, expected);
        }
    }

    /// Checks something that is no single field.
    fn ensure(&mut self, holds: bool, message: &str, line: &Line, span: &Span) {
        if !holds {
            self.differences.add(message, Some(line), Some(span));
        }
    }

    /// Claims what truth has no line for, where a call that brings such things about was going on.
    fn consequences(&mut self) {
        let mut calls: HashMap<u32, Calls> = HashMap::new();
        for line in &self.truth.lines {
            if let Some(call) = line.fact.call() {
                calls.entry(line.tid).or_default().list.push((call, &line.fact));
            }
        }
        calls.values_mut().for_each(Calls::sort);
        for index in 0..self.spans.len() {
            let span = self.spans[index];
            if self.claimed[index] {
                continue;
            }
            // What a program leaves open, the kernel takes down when it exits.
            let at_exit = span.event == "domain_free" && span.ts >= self.truth.ended;
            let of_thread = calls.get(&span.tid);
            let caused = |calls: &Calls| {
                calls.around(span).any(|fact| may_cause(fact, span)) || claims_for_container(calls.after(span), span)
            };
            if at_exit || of_thread.is_some_and(caused) {
                self.claimed[index] = true;
            }
        }
    }

    /// Tells what nothing has claimed.
    fn unexplained(&mut self) {
        for index in 0..self.spans.len() {
            if !self.claimed[index] {
                let message = "nothing in the truth explains this event";
                self.differences.add(message, None, Some(self.spans[index]));
            }
        }
    }
}

/// What one thread has called.
#[derive(Default)]
struct Calls<'a> {
    /// In the order in which they began.
    list: Vec<(Call, &'a Fact)>,
    /// The latest end of a call and of all before it.
    ended: Vec<u64>,
}

impl<'a> Calls<'a> {
    fn sort(&mut self) {
        self.list.sort_by_key(|(call, _)| call.ts0);
        let mut latest = 0;
        self.ended = self
            .list
            .iter()
            .map(|(call, _)| {
                latest = call.ts1.max(latest);
                latest
            })
            .collect();
    }

    /// The calls that a span is within.
    fn around(&self, span: &Span) -> impl Iterator<Item = &'a Fact> {
        let end = span.end();
        let begun = self.list.partition_point(|(call, _)| call.ts0 <= span.ts);
        let calls = self.list[..begun].iter().zip(&self.ended).rev();
        calls
            .take_while(move |&(_, &ended)| ended >= end)
            .filter(move |((call, _), _)| call.ts1 >= end)
            .map(|((_, fact), _)| *fact)
    }

    /// The first call that begins after a span.
    fn after(&self, span: &Span) -> Option<&'a Fact> {
        let begun = self.list.partition_point(|(call, _)| call.ts0 < span.end());
        self.list.get(begun).map(|(_, fact)| *fact)
    }
}

/// Whether an event is the claim of a group by `VFIO_GROUP_SET_CONTAINER`, which truth has no line for: it comes right
/// before the attach.
fn claims_for_container(next: Option<&Fact>, span: &Span) -> bool {
    matches!(next, Some(Fact::Attach(slot)) if slot.via == Via::VfioContainer
        && span.event == "replace"
        && span.text("owner") == Some("kernel")
        // Where the driver has no blocking domain, the core takes an empty page table.
        && matches!(span.text("domain_type"), Some("blocked" | "unmanaged"))
        && span.number("group") == slot.group.map(u64::from))
}

/// Whether a call may bring about an event that truth has no line for.
fn may_cause(fact: &Fact, span: &Span) -> bool {
    match span.event.as_str() {
        // The core's own switches: to the blocking domain and back around a claim of the group, to the default
        // domain of a device that comes, and inside what undoes an attach that failed.
        "replace" if span.text("owner") == Some("kernel") => {
            let group = fact.group();
            let of_this_group = group.is_none() || span.number("group") == group.map(u64::from);
            let own = matches!(span.text("domain_type"), Some("blocked" | "unmanaged" | "identity" | "dma" | "dma-fq"));
            let cause = matches!(
                fact,
                Fact::Bind(_)
                    | Fact::Unbind(_)
                    | Fact::Attach(_)
                    | Fact::Detach(_)
                    | Fact::Driver(_)
                    | Fact::DeviceAdd(_)
                    | Fact::DeviceRemove(_)
                    | Fact::Close(_)
            );
            cause && of_this_group && own && span.get("ret") == 0
        }
        // Page tables that iommufd or the core made by themselves go with their last user; on 7.x also the
        // driver's blocking domain with a group.
        "domain_free" => !matches!(fact, Fact::Map(_) | Fact::Unmap(_)),
        // A device is reset when it is found, and when VFIO opens or closes it.
        "reset_prepare" | "reset_done" => {
            matches!(fact, Fact::DeviceAdd(_) | Fact::Bind(_) | Fact::Close(_) | Fact::Unbind(_) | Fact::Driver(_))
        }
        // A page table that comes to an address space gets what is mapped there; one that leaves loses it.
        "map" => matches!(fact, Fact::Attach(_) | Fact::Replace(_) | Fact::Alloc(_) | Fact::Bind(_)),
        "unmap" => matches!(
            fact,
            Fact::Detach(_) | Fact::Replace(_) | Fact::Destroy(_) | Fact::Close(_) | Fact::Unbind(_) | Fact::Attach(_)
        ),
        _ => false,
    }
}

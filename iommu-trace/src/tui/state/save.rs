//! The present state as one JSON document.

use serde::Serialize;

use super::{
    Own, Ui, World,
    bins::STAGES,
    lives::Life,
    rows::{FaultRow, Row, probe_rows, rows},
    ui::View,
};
use crate::{
    event::{DomainType, Name, Ptr},
    model::{
        Measure, Violation,
        span::{Owner, Span},
    },
};

/// Version of the document: grows when a field changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    kernel: &'a str,
    machine: &'a str,
    host: &'a str,
    /// The time that is looked at, and the newest that is known.
    ts: u64,
    newest_ts: u64,
    began_ts: u64,
    events: u64,
    /// Spans so far, by name.
    counts: serde_json::Map<String, serde_json::Value>,
    lost: serde_json::Map<String, serde_json::Value>,
    attachments: Vec<Attached>,
    faults: Vec<Faulted<'a>>,
    latencies: Vec<Latency>,
    violations: Vec<Broken<'a>>,
    probes: Vec<Probed<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<Tool>,
}

#[derive(Serialize)]
struct Attached {
    group: Option<u32>,
    device: Option<Name>,
    pasid: u32,
    owner: Owner,
    domain: Ptr,
    domain_type: DomainType,
    handle: Option<Ptr>,
    device_id: Option<u32>,
    users: Option<u32>,
    since_ts: Option<u64>,
    gone_ts: Option<u64>,
    faults: u64,
    last_fault_ts: Option<u64>,
}

#[derive(Serialize)]
struct Faulted<'a> {
    outstanding: bool,
    #[serde(flatten)]
    span: &'a Span,
}

#[derive(Serialize)]
struct Latency {
    measure: &'static str,
    count: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

#[derive(Serialize)]
struct Broken<'a> {
    count: u64,
    last_ts: u64,
    #[serde(flatten)]
    first: &'a Violation,
}

#[derive(Serialize)]
struct Probed<'a> {
    function: &'a str,
    verdict: &'static str,
    events: u64,
    lost: u64,
    runs: Option<u64>,
    run_ns: Option<u64>,
}

#[derive(Serialize)]
struct Tool {
    cpu_share: f64,
    memory_bytes: u64,
}

/// The state at the time that is looked at, whatever view is shown; the filter counts.
pub fn json(world: &World, ui: &Ui) -> serde_json::Result<String> {
    let mut ui = ui.clone();
    ui.view = View::Handles;
    let lives = rows(world, &ui);
    let attachments = lives
        .iter()
        .filter_map(|row| match row {
            Row::Life(life) => Some(attached(life)),
            _ => None,
        })
        .collect();
    ui.view = View::Faults;
    let fault_rows = rows(world, &ui);
    let faults = fault_rows
        .iter()
        .filter_map(|row| match row {
            Row::Fault(row) => Some(Faulted { outstanding: row.is_open(), span: FaultRow::span(row) }),
            _ => None,
        })
        .collect();
    let counts = world.model.counts();
    let document = Document {
        schema: SCHEMA,
        kernel: &world.info.kernel,
        machine: &world.info.machine,
        host: &world.info.host,
        ts: world.at(&ui),
        newest_ts: world.now,
        began_ts: world.began,
        events: counts.events,
        counts: counts.spans.iter().map(|(name, count)| (name.to_owned(), count.into())).collect(),
        lost: counts.lost.iter().map(|(probe, &count)| (probe.function().to_owned(), count.into())).collect(),
        attachments,
        faults,
        latencies: latencies(world),
        violations: world
            .breaches
            .list()
            .iter()
            .map(|breach| Broken { count: breach.count, last_ts: breach.last, first: &breach.first })
            .collect(),
        probes: probe_rows(world)
            .into_iter()
            .map(|row| Probed {
                function: &row.status.function,
                verdict: row.status.verdict.name(),
                events: row.events,
                lost: row.lost,
                runs: row.cost.as_ref().map(|cost| cost.runs),
                run_ns: row.cost.as_ref().map(|cost| cost.run_ns),
            })
            .collect(),
        tool: world.own.map(|Own { cpu, memory }| Tool { cpu_share: cpu, memory_bytes: memory }),
    };
    let mut text = serde_json::to_string_pretty(&document)?;
    text.push('\n');
    Ok(text)
}

fn attached(life: &Life) -> Attached {
    Attached {
        group: life.place.0,
        device: life.device,
        pasid: life.place.1,
        owner: life.owner,
        domain: life.domain,
        domain_type: life.domain_type,
        handle: life.handle,
        device_id: life.device_id,
        users: life.users,
        since_ts: life.born.map(|born| born.ts),
        gone_ts: life.gone.map(|gone| gone.ts),
        faults: life.faults,
        last_fault_ts: life.last_fault,
    }
}

/// Of the whole run, exact.
fn latencies(world: &World) -> Vec<Latency> {
    let overall = world.model.latencies().overall();
    STAGES
        .into_iter()
        .chain([Measure::Mirror])
        .filter_map(|measure| {
            let histogram = overall.get(measure)?;
            Some(Latency {
                measure: measure.name(),
                count: histogram.len(),
                p50_ns: histogram.value_at_quantile(0.5),
                p99_ns: histogram.value_at_quantile(0.99),
                max_ns: histogram.max(),
            })
        })
        .collect()
}

//! The report: one page that needs nothing else, with the lives of handles, the faults on them, latencies, and what was
//! broken with its evidence. Collects what the model tells; the caller does the I/O.

mod data;
mod page;
mod thin;

use std::collections::BTreeMap;

use data::{Course, Data, DeviceRow, Evidence, FaultColumns, LifeRow, Meta, Thinned, ViolationRow};

use crate::{
    analysis::{Lives, Observer, Stats, pasid},
    event::{Event, Name, ResponseCode},
    model::{
        Map, Measure, Violation,
        span::{FaultSpan, Span, SpanKind},
    },
    output::Exit,
    source::{SourceInfo, Stacks},
};

use thin::STAGES;

pub use thin::MAX_DRAWN;

/// Faults that are kept for the page's figures, so that a recording from anyone cannot take all memory.
const MAX_KEPT: usize = 4 << 20;
/// Violations that are shown whole.
const MAX_VIOLATIONS: usize = 500;
/// Columns of the course of latencies over time.
const COURSE: usize = 160;

/// A fault, as the page has it: no more than 64 bytes.
#[derive(Clone, Copy, Debug)]
struct Fault {
    ts: u64,
    device: u32,
    pasid: u32,
    addr: u64,
    times: [u32; STAGES.len()],
    /// As `enum iommu_page_response_code`, 9 for none.
    response: u8,
}

/// No time: beyond four seconds a time is told as 4.29 s.
const NO_TIME: u32 = u32::MAX;
/// No response.
const NO_RESPONSE: u8 = 9;

/// Collects what happens.
#[derive(Default)]
pub struct Report {
    stats: Stats,
    lives: Lives,
    faults: Vec<Fault>,
    devices: Vec<(Option<u32>, Name)>,
    places: Map<(Option<u32>, Name), u32>,
    violations: Vec<Violation>,
    /// Violations and faults without room.
    left_out: (u64, u64),
}

impl Report {
    /// A span that the filters leave out.
    pub fn leave_out(&mut self) {
        self.stats.leave_out();
    }

    fn place(&mut self, group: Option<u32>, device: Name) -> u32 {
        let next = self.devices.len() as u32;
        let place = *self.places.entry((group, device)).or_insert(next);
        if place == next {
            self.devices.push((group, device));
        }
        place
    }

    fn fault(&mut self, ts: u64, fault: &FaultSpan) {
        if self.faults.len() >= MAX_KEPT {
            self.left_out.1 += 1;
            return;
        }
        let time = |ns: Option<u64>| ns.map_or(NO_TIME, |ns| u32::try_from(ns).unwrap_or(NO_TIME - 1).min(NO_TIME - 1));
        let response = match fault.response.0 {
            None => NO_RESPONSE,
            Some(ResponseCode::Success) => 0,
            Some(ResponseCode::Invalid) => 1,
            Some(ResponseCode::Failure) => 2,
            Some(ResponseCode::Other(_)) => 3,
        };
        let device = self.place(fault.group, fault.device);
        self.faults.push(Fault {
            ts,
            device,
            pasid: pasid(fault),
            addr: fault.addr,
            times: STAGES.map(|stage| time(stage.of(fault))),
            response,
        });
    }

    /// The page; `upto` is the last time known.
    #[must_use]
    pub fn page(mut self, info: &SourceInfo, upto: u64, exit: Exit, stacks: &dyn Stacks) -> String {
        let stats = self.stats.document(info, upto, exit);
        let start = info.started_ns;
        let lives = std::mem::take(&mut self.lives);
        let (lives_left_out, mut lives) = (lives.left_out, lives.finish());
        let all_lives = lives.len();
        lives.truncate(MAX_DRAWN);
        let lives: Vec<LifeRow> = lives
            .iter()
            .map(|life| {
                let device = self.place(life.group, life.device.unwrap_or_default());
                LifeRow::new(life, device, start)
            })
            .collect();
        self.faults.sort_by_key(|fault| fault.ts);
        let course = course(&self.faults, start, upto);
        let histograms = thin::histograms(&self.faults);
        let drawn = thin::thin(&self.faults);
        let data = Data {
            meta: Meta::new(info, upto),
            thinned: Thinned {
                faults: self.faults.len() as u64 + self.left_out.1,
                faults_drawn: drawn.len() as u64,
                lives: all_lives as u64 + lives_left_out,
                lives_drawn: lives.len() as u64,
                violations: self.violations.len() as u64 + self.left_out.0,
                violations_shown: self.violations.len() as u64,
            },
            devices: self.devices.iter().map(|(group, device)| DeviceRow { group: *group, name: *device }).collect(),
            faults: FaultColumns::new(&drawn, start),
            stages: STAGES.map(Measure::name),
            lives,
            course,
            histograms,
            violations: self.violations.iter().map(|violation| told(violation, start, stacks)).collect(),
            probes: info.probes.clone(),
            stats,
        };
        page::render(&data)
    }
}

fn told(violation: &Violation, start: u64, stacks: &dyn Stacks) -> ViolationRow {
    let evidence = violation.evidence.iter().map(|piece| Evidence {
        at: piece.ts as i64 - start as i64,
        what: piece.what,
        function: piece.probe.function(),
        phase: piece.phase,
        task: format!("{}/{}", piece.task.comm, piece.task.tid),
        cpu: piece.task.cpu,
        stack: piece
            .stack
            .map(|id| stacks.frames(id))
            .unwrap_or_default()
            .into_iter()
            .map(|frame| frame.symbol)
            .skip_while(|symbol| symbol.ends_with("[bpf]"))
            .collect(),
    });
    ViolationRow {
        at: violation.ts as i64 - start as i64,
        rule: violation.rule.slug(),
        severity: violation.severity,
        message: violation.message.clone(),
        subject: violation.subject.clone(),
        evidence: evidence.collect(),
    }
}

/// The answers' p50, p99 and maximum over time.
fn course(faults: &[Fault], start: u64, upto: u64) -> Vec<Course> {
    let span = upto.saturating_sub(start).max(1);
    let mut columns: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for fault in faults {
        let answer = fault.times[STAGES.len() - 1];
        if answer != NO_TIME {
            let column = (u128::from(fault.ts.saturating_sub(start)) * COURSE as u128 / u128::from(span)) as usize;
            columns.entry(column.min(COURSE - 1)).or_default().push(answer);
        }
    }
    columns
        .into_iter()
        .filter_map(|(column, mut times)| {
            times.sort_unstable();
            let at = |quantile: f64| times.get(((times.len() as f64 * quantile).ceil() as usize).max(1) - 1).copied();
            Some(Course {
                at: span / COURSE as u64 * column as u64,
                count: times.len() as u32,
                p50: at(0.5)?,
                p99: at(0.99)?,
                max: *times.last()?,
            })
        })
        .collect()
}

impl Observer for Report {
    fn event(&mut self, event: &Event) {
        self.stats.event(event);
        self.lives.event(event);
    }

    fn span(&mut self, span: &Span) {
        self.stats.span(span);
        self.lives.span(span);
        if let SpanKind::Fault(fault) = &span.kind {
            self.fault(span.ts, fault);
        }
    }

    fn violation(&mut self, violation: &Violation) {
        self.stats.violation(violation);
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation.clone());
        } else {
            self.left_out.0 += 1;
        }
    }
}

//! Tables of what happened, as they go to Parquet files: one row for each fault, handle's life, DMA operation and violation.

use super::columns::{Cell, Columns, Kind, Table};
use crate::{
    analysis::{Life, Lives, Observer, pasid},
    event::{Event, Ptr},
    model::{
        Violation,
        span::{DmaSpan, FaultSpan, Span, SpanKind},
    },
    source::SourceInfo,
};

/// What every row begins with: where it comes from.
const FROM: Columns = &[("host", Kind::Text), ("kernel", Kind::Text), ("recording", Kind::Text)];

const FAULTS: Columns = &[
    ("ts", Kind::Unsigned),
    ("time_ns", Kind::Signed),
    ("group", Kind::Unsigned),
    ("device", Kind::Text),
    ("pasid", Kind::Unsigned),
    ("grpid", Kind::Unsigned),
    ("addr", Kind::Unsigned),
    ("perm", Kind::Unsigned),
    ("flags", Kind::Unsigned),
    ("last", Kind::Unsigned),
    ("requests", Kind::Unsigned),
    ("handle", Kind::Unsigned),
    ("device_id", Kind::Unsigned),
    ("ret", Kind::Signed),
    ("interrupt_ns", Kind::Unsigned),
    ("lookup_ns", Kind::Unsigned),
    ("device_id_ns", Kind::Unsigned),
    ("handler_ns", Kind::Unsigned),
    ("delivered_ns", Kind::Unsigned),
    ("response_ns", Kind::Unsigned),
    ("freed_ns", Kind::Unsigned),
    ("response", Kind::Text),
    ("answered_by", Kind::Text),
    ("complete", Kind::Unsigned),
    ("cpu", Kind::Unsigned),
    ("pid", Kind::Unsigned),
    ("tid", Kind::Unsigned),
    ("comm", Kind::Text),
];

const LIVES: Columns = &[
    ("group", Kind::Unsigned),
    ("device", Kind::Text),
    ("pasid", Kind::Unsigned),
    ("handle", Kind::Unsigned),
    ("domain", Kind::Unsigned),
    ("domain_type", Kind::Text),
    ("owner", Kind::Text),
    ("device_id", Kind::Unsigned),
    ("begin_ts", Kind::Unsigned),
    ("end_ts", Kind::Unsigned),
    ("begin_time_ns", Kind::Signed),
    ("end_time_ns", Kind::Signed),
];

const OPERATIONS: Columns = &[
    ("ts", Kind::Unsigned),
    ("time_ns", Kind::Signed),
    ("operation", Kind::Text),
    ("function", Kind::Text),
    ("domain", Kind::Unsigned),
    ("iommu", Kind::Unsigned),
    ("addr", Kind::Unsigned),
    ("size", Kind::Unsigned),
    ("descriptors", Kind::Unsigned),
    ("ret", Kind::Signed),
    ("duration_ns", Kind::Unsigned),
    ("cpu", Kind::Unsigned),
    ("pid", Kind::Unsigned),
    ("tid", Kind::Unsigned),
    ("comm", Kind::Text),
];

const VIOLATIONS: Columns = &[
    ("ts", Kind::Unsigned),
    ("time_ns", Kind::Signed),
    ("rule", Kind::Text),
    ("severity", Kind::Text),
    ("message", Kind::Text),
    ("group", Kind::Unsigned),
    ("device", Kind::Text),
    ("pasid", Kind::Unsigned),
    ("handle", Kind::Unsigned),
    ("domain", Kind::Unsigned),
    ("device_id", Kind::Unsigned),
    ("evidence", Kind::Text),
    ("pid", Kind::Unsigned),
    ("tid", Kind::Unsigned),
    ("comm", Kind::Text),
];

/// Collects rows; full groups of them go to their file at once.
pub struct Tables {
    from: [String; 3],
    epoch_offset_ns: i64,
    faults: Table,
    handle_lives: Table,
    dma_operations: Table,
    violations: Table,
    lives: Lives,
    /// The first error of writing; what came after it was not written.
    failed: Option<anyhow::Error>,
}

impl Tables {
    /// Creates the files in a directory that is new or empty.
    pub fn create(dir: &std::path::Path, info: &SourceInfo) -> anyhow::Result<Self> {
        let create = |name| Table::create(dir, name, FROM);
        let begun = info.started_ns.saturating_add_signed(info.epoch_offset_ns);
        Ok(Tables {
            from: [info.host.clone(), info.kernel.clone(), format!("{}-{begun}", info.host)],
            epoch_offset_ns: info.epoch_offset_ns,
            faults: create("faults")?(FAULTS)?,
            handle_lives: create("handle_lives")?(LIVES)?,
            dma_operations: create("dma_operations")?(OPERATIONS)?,
            violations: create("violations")?(VIOLATIONS)?,
            lives: Lives::default(),
            failed: None,
        })
    }

    fn time(&self, ts: u64) -> Cell {
        Cell::Signed(Some((ts as i64).wrapping_add(self.epoch_offset_ns)))
    }

    fn with_from(&self, cells: Vec<Cell>) -> Vec<Cell> {
        self.from.iter().map(|text| Cell::text(text)).chain(cells).collect()
    }

    fn note(&mut self, done: anyhow::Result<()>) {
        if let Err(error) = done {
            self.failed.get_or_insert(error);
        }
    }

    fn fault(&mut self, span: &Span, fault: &FaultSpan) {
        let answered_by = fault.answered_by.and_then(|by| serde_json::to_value(by).ok());
        let response = fault.response.0.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let row = self.with_from(vec![
            span.ts.into(),
            self.time(span.ts),
            fault.group.into(),
            Cell::text(&fault.device.to_string()),
            pasid(fault).into(),
            fault.grpid.into(),
            fault.addr.into(),
            fault.perm.into(),
            fault.flags.into(),
            u32::from(fault.last).into(),
            fault.requests.into(),
            fault.handle.map(|handle| handle.0).into(),
            fault.device_id.into(),
            Cell::Signed(fault.ret),
            fault.interrupt_ns.into(),
            fault.lookup_ns.into(),
            fault.device_id_ns.into(),
            fault.handler_ns.into(),
            fault.delivered_ns.into(),
            fault.response_ns.into(),
            fault.freed_ns.into(),
            Cell::text(&response),
            Cell::Text(answered_by.and_then(|by| Some(by.as_str()?.to_owned()))),
            u32::from(fault.complete).into(),
            span.cpu.into(),
            span.pid.into(),
            span.tid.into(),
            Cell::text(&span.comm.to_string()),
        ]);
        let done = self.faults.row(row);
        self.note(done);
    }

    fn operation(&mut self, span: &Span, operation: Operation<'_>) {
        let row = self.with_from(vec![
            span.ts.into(),
            self.time(span.ts),
            Cell::text(span.kind.name()),
            Cell::text(operation.function),
            operation.domain.into(),
            operation.iommu.into(),
            operation.addr.into(),
            operation.size.into(),
            operation.descriptors.into(),
            Cell::Signed(Some(operation.ret)),
            operation.duration_ns.into(),
            span.cpu.into(),
            span.pid.into(),
            span.tid.into(),
            Cell::text(&span.comm.to_string()),
        ]);
        let done = self.dma_operations.row(row);
        self.note(done);
    }

    fn life(&mut self, life: &Life) -> anyhow::Result<()> {
        let time = |ts: Option<u64>| Cell::Signed(ts.map(|ts| (ts as i64).wrapping_add(self.epoch_offset_ns)));
        let row = self.with_from(vec![
            life.group.into(),
            Cell::Text(life.device.map(|name| name.to_string())),
            life.pasid.into(),
            life.handle.map(|handle| handle.0).into(),
            life.domain.0.into(),
            Cell::text(&life.domain_type.to_string()),
            Cell::text(life.owner.name()),
            life.device_id.into(),
            life.begin.into(),
            life.end.into(),
            time(life.begin),
            time(life.end),
        ]);
        self.handle_lives.row(row)
    }

    /// Writes what is left, and closes the files.
    pub fn close(mut self) -> anyhow::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        for life in std::mem::take(&mut self.lives).finish() {
            self.life(&life)?;
        }
        for table in [self.faults, self.handle_lives, self.dma_operations, self.violations] {
            table.close()?;
        }
        Ok(())
    }
}

/// A map, unmap or invalidation.
#[derive(Default)]
struct Operation<'a> {
    function: &'a str,
    domain: Option<u64>,
    iommu: Option<u64>,
    addr: Option<u64>,
    size: Option<u64>,
    descriptors: Option<u32>,
    ret: i64,
    duration_ns: u64,
}

impl<'a> Operation<'a> {
    fn of_dma(dma: &'a DmaSpan) -> Self {
        Operation {
            function: dma.function,
            domain: Some(dma.domain.0),
            addr: Some(dma.addr),
            size: Some(dma.size),
            ret: dma.ret,
            duration_ns: dma.duration_ns,
            ..Operation::default()
        }
    }
}

impl Observer for Tables {
    fn event(&mut self, event: &Event) {
        self.lives.event(event);
    }

    fn span(&mut self, span: &Span) {
        self.lives.span(span);
        match &span.kind {
            SpanKind::Fault(fault) => self.fault(span, fault),
            SpanKind::Map(dma) | SpanKind::Unmap(dma) => self.operation(span, Operation::of_dma(dma)),
            SpanKind::Flush(flush) => self.operation(
                span,
                Operation {
                    function: flush.function,
                    domain: Some(flush.domain.0),
                    addr: Some(flush.addr),
                    size: Some(flush.size),
                    duration_ns: flush.duration_ns,
                    ..Operation::default()
                },
            ),
            SpanKind::Invalidate(of) => self.operation(
                span,
                Operation {
                    function: of.kind,
                    iommu: Some(of.iommu.0),
                    descriptors: Some(of.count),
                    ret: of.ret,
                    duration_ns: of.duration_ns,
                    ..Operation::default()
                },
            ),
            _ => {}
        }
    }

    fn violation(&mut self, violation: &Violation) {
        let subject = &violation.subject;
        let ptr = |ptr: Option<Ptr>| Cell::Unsigned(ptr.map(|ptr| ptr.0));
        let row = self.with_from(vec![
            violation.ts.into(),
            self.time(violation.ts),
            Cell::text(violation.rule.slug()),
            Cell::text(violation.severity.name()),
            Cell::text(&violation.message),
            subject.group.into(),
            Cell::Text(subject.device.map(|name| name.to_string())),
            subject.pasid.into(),
            ptr(subject.handle),
            ptr(subject.domain),
            subject.device_id.into(),
            Cell::Text(serde_json::to_string(&violation.evidence).ok()),
            violation.task.pid.into(),
            violation.task.tid.into(),
            Cell::text(&violation.task.comm.to_string()),
        ]);
        let done = self.violations.row(row);
        self.note(done);
    }
}
